// What producers tell a broker about nodes, with real programs and no node that answers: nothing
// listens where these hosts are said to be. tests/nodes has those that do.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <fstream>
#include <muster/producer.hpp>
#include <nlohmann/json.hpp>

#include "tests/support/child.hpp"
#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

// Port 1 of the loopback: refused at once, everywhere.
constexpr const char* kHosts = "hosts = [\"nobody@127.0.0.1:1\"]\n";

template <typename Call>
std::string complaint_of(const Call& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

class Nodes : public Daemons {
 protected:
  Nodes() {
    ::setenv("MUSTER_BIN_DIR", MUSTER_BIN_DIR, 1);
    ::setenv("HOME", folder_.path("").c_str(), 1);
  }
  Options attached() const {
    Options options;
    options.endpoint = endpoint_;
    return options;
  }
  static nlohmann::json rows(Producer& producer) {
    return nlohmann::json::parse(producer.status().json).at("nodes");
  }
};

TEST_F(Nodes, UpIsAcceptedAndDownToldByName) {
  const auto broker = start_broker();
  Producer producer(attached());
  EXPECT_EQ(producer.up(kHosts, "pool.toml"), std::vector<std::string>{"127.0.0.1"});
  ASSERT_TRUE(wait_until([&] {
    const auto nodes = rows(producer);
    return nodes.size() == 1 && !nodes[0].at("detail").get<std::string>().empty() &&
           nodes[0].at("state") == "waiting";
  })) << producer.status().json;
  EXPECT_EQ(rows(producer)[0].at("step"), "connect");

  const std::string unknown =
      complaint_of([&] { producer.down({"elsewhere"}); }, ErrorCode::invalid);
  EXPECT_NE(unknown.find("elsewhere"), std::string::npos);
  EXPECT_NE(unknown.find("127.0.0.1"), std::string::npos);
  EXPECT_EQ(producer.down({"127.0.0.1"}), std::vector<std::string>{"127.0.0.1"});
  EXPECT_TRUE(wait_until([&] { return rows(producer).empty(); })) << producer.status().json;
}

TEST_F(Nodes, ATypoIsAnErrorAndNothingIsDone) {
  const auto broker = start_broker();
  Producer producer(attached());
  const std::string text =
      complaint_of([&] { producer.up("[[host]]\naddress = \"a\"\nslotz = 1", "pool.toml"); },
                   ErrorCode::invalid);
  EXPECT_EQ(text, "pool.toml:3:1: there is no key 'slotz'; did you mean 'slots'?");
  EXPECT_TRUE(rows(producer).empty());
}

TEST_F(Nodes, ANewBrokerIsToldAgain) {
  auto broker = start_broker();
  Producer producer(attached());
  producer.up(kHosts, "pool.toml");
  broker->signal(SIGKILL);
  broker->wait();
  broker = start_broker();
  ASSERT_TRUE(wait_until([&] {
    try {
      return rows(producer).size() == 1;
    } catch (const Error&) {
      return false;  // it is not there yet
    }
  }));
}

TEST_F(Nodes, TheBrokerEndsAfterItsNodesWhenAsked) {
  const auto broker = start_broker();
  Producer producer(attached());
  producer.up(kHosts, "pool.toml");
  producer.down({}, true);
  EXPECT_EQ(broker->wait(), 0) << broker->error_output();
}

TEST_F(Nodes, TheBrokerReadsAHostsFileAtItsStart) {
  std::ofstream(folder_.path("hosts.toml")) << kHosts;
  const auto broker = start_broker({"--hosts", folder_.path("hosts.toml")});
  Producer producer(attached());
  EXPECT_TRUE(wait_until([&] { return rows(producer).size() == 1; }));
  std::ofstream(folder_.path("wrong.toml")) << "hosts = []\n";
  Child wrong({MUSTER_BIN_DIR "/muster-broker", "--listen", folder_.endpoint("other"), "--hosts",
               folder_.path("wrong.toml")});
  EXPECT_EQ(wrong.wait(), 2);
  EXPECT_NE(wrong.error_output().find("wrong.toml:1:1: "), std::string::npos)
      << wrong.error_output();
}

TEST_F(Nodes, AnEmbeddedPoolNamesHostStepAndReason) {
  Options options;
  options.workers = 0;
  options.hosts = kHosts;
  options.hosts_origin = "pool.toml";
  options.connect_timeout = std::chrono::seconds(2);
  const std::string text =
      complaint_of([&] { const Producer producer(options); }, ErrorCode::unusable);
  EXPECT_NE(text.find("127.0.0.1 (nobody@127.0.0.1:1)"), std::string::npos) << text;
  EXPECT_NE(text.find("connect"), std::string::npos) << text;
  options.hosts = "hosts = 7";
  EXPECT_NE(complaint_of([&] { const Producer producer(options); }, ErrorCode::invalid)
                .find("pool.toml:1:9: "),
            std::string::npos);
  options.hosts.clear();
  complaint_of([&] { const Producer producer(options); }, ErrorCode::invalid);
}

// A hosts file may be as large as the limit, and no larger.
TEST_F(Nodes, TheLimitOfAHostsFile) {
  const auto broker = start_broker();
  Producer producer(attached());
  std::string text = kHosts;
  text += "#" + std::string((std::size_t{4} << 20) - text.size() - 1, 'x');
  EXPECT_EQ(producer.up(text, "pool.toml").size(), 1U);
  complaint_of([&] { producer.up(text + "x", "pool.toml"); }, ErrorCode::invalid);
  complaint_of([&] { producer.up(kHosts, std::string(513, 'x')); }, ErrorCode::invalid);
  EXPECT_EQ(rows(producer).size(), 1U);
}

}  // namespace
}  // namespace muster::testing
