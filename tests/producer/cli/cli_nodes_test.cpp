// What `muster up` says and shows: words, rows, tables.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "producer/cli/nodes/hosts_words.hpp"
#include "producer/cli/nodes/node_rows.hpp"
#include "producer/cli/status_table.hpp"

namespace muster {
namespace {

nlohmann::json node(const std::string& name, const std::string& state, const std::string& step,
                    const std::string& detail) {
  return {{"name", name},           {"address", "ada@" + name + ":22"},
          {"via", "libssh"},        {"state", state},
          {"step", step},           {"detail", detail},
          {"state_ms", 61'000},     {"bytes_in", 2048},
          {"bytes_out", 5'000'000}, {"round_trip_us", 1'500},
          {"reconnects", 3}};
}

nlohmann::json status_of(const std::vector<nlohmann::json>& nodes) {
  const nlohmann::json worker = {{"node", "n1"}, {"slots", 4}, {"paused", "load 3.0"}};
  return {{"workers", {worker}}, {"jobs", nlohmann::json::array()}, {"nodes", nodes}};
}

TEST(HostsWords, ShortFormsBecomeOneText) {
  const auto texts = hosts_of({"ada@node1", "node2*8"}, {4, "3.11"});
  ASSERT_EQ(texts.size(), 1U);
  EXPECT_EQ(texts[0].text,
            "hosts = [\"ada@node1\", \"node2*8\"]\n[defaults]\nslots = 4\npython = \"3.11\"\n");
}

TEST(HostsWords, QuotesCannotEndTheText) {
  EXPECT_EQ(hosts_of({"a\"]\nx = \"\x80"})[0].text.find("hosts = [\"a\\\"]\\nx = \\\""), 0U);
}

TEST(HostsWords, FilesAreSaidByTheirAbsolutePath) {
  const std::string path = ::testing::TempDir() + "/cli_nodes_test.toml";
  std::ofstream(path) << "hosts = [\"a\"]\n";
  const auto texts = hosts_of({"node1", path, "node2"});
  std::remove(path.c_str());
  ASSERT_EQ(texts.size(), 2U);
  EXPECT_EQ(texts[0].text.find("hosts = [\"node1\", \"node2\"]"), 0U);
  EXPECT_EQ(texts[1].text, "hosts = [\"a\"]\n");
  EXPECT_EQ(texts[1].origin.front(), '/');
  EXPECT_THROW(hosts_of({path}), std::runtime_error);
  EXPECT_THROW(hosts_of({::testing::TempDir() + "/"}), std::runtime_error);
}

TEST(NodeRows, SayWhatGoesOn) {
  const auto rows = node_rows(
      status_of({node("n1", "up", "serve", "commands only"), node("n2", "up", "serve", ""),
                 node("n3", "failed", "login", "no key\nfits\x1b[2J")})
          .dump());
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_TRUE(is_up(rows[0]));
  EXPECT_EQ(describe(rows[0]), "up, 4 slots; commands only");
  EXPECT_FALSE(is_up(rows[1]));  // no worker yet
  EXPECT_EQ(describe(rows[2]), "failed: login: no key fits\\x1b[2J");
  EXPECT_EQ(describe(rows[2], 12), "failed: l...");
  EXPECT_EQ(complaint(rows[2]), "n3 (ada@n3:22): login: no key fits\\x1b[2J");
  EXPECT_NE(complaint(rows[1]).find("muster doctor"), std::string::npos);
  EXPECT_THROW(node_rows("{}"), std::runtime_error);
  EXPECT_THROW(node_rows("no JSON"), std::runtime_error);
}

TEST(StatusTable, ShowsNodesAndWhatIsWrongWithThem) {
  const std::string table = status_table(status_of({node("n1", "up", "serve", "commands only"),
                                                    node("n3", "failed", "login", "no key")})
                                             .dump());
  EXPECT_NE(table.find("  n1    ada@n1:22  up      61.0 s  2.0 KB  4.8 MB     1.50 ms           3"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("  n3: login: no key\n"), std::string::npos) << table;
  EXPECT_NE(table.find("  n1: commands only\n"), std::string::npos) << table;
  EXPECT_NE(table.find("PAUSED: load 3.0"), std::string::npos) << table;
  EXPECT_EQ(status_table(status_of({}).dump()).find("Nodes"), std::string::npos);
}

}  // namespace
}  // namespace muster
