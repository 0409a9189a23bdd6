// The text that both kinds of Remote share, and what ssh(1)'s words mean.
#include "broker/ssh/remote_text.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "broker/ssh/openssh_client.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

using Lines = std::vector<std::pair<std::string, bool>>;

struct Collector {
  Lines lines;
  LineSink sink = [this](std::string_view line, bool is_error) {
    lines.emplace_back(line, is_error);
  };
};

TEST(LineSplitterTest, JoinsPiecesAndKeepsTheStreamsApart) {
  Collector collector;
  LineSplitter splitter(collector.sink);
  splitter.add("one\ntw", false);
  splitter.add("error\r\n", true);
  splitter.add("o\n\nla", false);
  splitter.add("st", false);
  splitter.flush();
  EXPECT_EQ(collector.lines,
            (Lines{{"one", false}, {"error", true}, {"two", false}, {"", false}, {"last", false}}));
}

TEST(LineSplitterTest, CutsLinesThatAreTooLong) {
  for (const std::size_t more : {std::size_t{0}, std::size_t{1}}) {
    Collector collector;
    LineSplitter splitter(collector.sink);
    const std::string line(limits::kMaxLineBytes + more, 'x');
    splitter.add(line + "\nnext\n", false);
    std::string joined;
    for (const auto& [text, is_error] : collector.lines) {
      EXPECT_LE(text.size(), limits::kMaxLineBytes);
      joined += text;
    }
    EXPECT_EQ(joined, line + "next");
  }
}

TEST(RemoteTextTest, KeepsAMebibyte) {
  std::string kept;
  append_kept(kept, std::string(1 << 20, 'x'));
  append_kept(kept, "more");
  EXPECT_EQ(kept.size(), std::size_t{1} << 20);
}

TEST(RemoteTextTest, AnyTextIsOneWordOfTheShell) {
  for (const std::string text : {"plain", "two words", "it's", "$HOME `id` \\ \"x\"", "", "-n"}) {
    const std::string command = "printf %s " + shell_word(text);
    std::string output;
    FILE* pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) output += static_cast<char>(c);
    pclose(pipe);
    EXPECT_EQ(output, text);
  }
}

TEST(RemoteTextTest, AFullDiskIsNamed) {
  const NodeError error =
      upload_error("node1", ".cache/muster/x", 1, "cat: write error: No space left on device\n");
  EXPECT_EQ(error.kind(), NodeError::Kind::lasting);
  EXPECT_NE(std::string(error.what()).find("disk full on node1"), std::string::npos);
  EXPECT_NE(std::string(error.what()).find("df -h .cache/muster"), std::string::npos);
}

struct Case {
  const char* complaint;
  const char* step;
  NodeError::Kind kind;
};

class OpensshErrorTest : public testing::TestWithParam<Case> {};

TEST_P(OpensshErrorTest, IsUnderstood) {
  const NodeError error = openssh_error("ada@node1", GetParam().complaint);
  EXPECT_EQ(error.step(), GetParam().step);
  EXPECT_EQ(error.kind(), GetParam().kind);
  EXPECT_NE(std::string(error.what()).find("ada@node1"), std::string::npos);
}

constexpr auto kPassing = NodeError::Kind::passing;
constexpr auto kLasting = NodeError::Kind::lasting;

INSTANTIATE_TEST_SUITE_P(
    Words, OpensshErrorTest,
    testing::Values(
        Case{"ssh: Could not resolve hostname x: Name or service not known", "resolve", kLasting},
        Case{"ssh: Could not resolve hostname x: Temporary failure in name resolution", "resolve",
             kPassing},
        Case{"ssh: connect to host x port 22: Connection refused", "connect", kPassing},
        Case{"ssh: connect to host x port 22: Connection timed out", "connect", kPassing},
        Case{"kex_exchange_identification: read: Connection reset by peer", "connect", kPassing},
        Case{"Unable to negotiate with x port 22: no matching key exchange method found.",
             "connect", kLasting},
        Case{"No ED25519 host key is known for x and you have requested strict checking.\n"
             "Host key verification failed.",
             "host key", kLasting},
        Case{"@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
             "host key", kLasting},
        Case{"ada@x: Permission denied (publickey,password).", "login", kLasting},
        Case{"Received disconnect from x port 22:2: Too many authentication failures", "login",
             kLasting},
        Case{"", "connect", kPassing}));

}  // namespace
}  // namespace muster
