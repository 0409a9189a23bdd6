// What a session says about nodes, and says again to a broker that was started anew.
#include <gtest/gtest.h>

#include "tests/producer/session/session_env.hpp"

namespace muster::test {
namespace {

class SessionNodes : public ::testing::Test {
 protected:
  std::uint64_t up(const std::string& hosts) {
    return env.session.request_nodes(message::NodesUp{hosts, "pool.toml"});
  }
  std::uint64_t down(std::vector<std::string> names) {
    return env.session.request_nodes(message::NodesDown{std::move(names), false});
  }
  void expect_up(const std::string& hosts) {
    EXPECT_EQ(env.expect<message::NodesUp>().hosts, hosts);
  }
  // The number of the command that this answers, 0: none.
  std::uint64_t answer(const std::string& error = "") {
    env.session.receive(message::NodesAnswer{error, {}}, env.now);
    const auto events = env.session.take_events();
    if (events.nodes_answered.empty()) return 0;
    EXPECT_EQ(events.nodes_answered.front().answer.error, error);
    return events.nodes_answered.front().number;
  }
  void new_broker() {
    ++env.incarnation;
    env.connect_and_welcome();
  }

  SessionEnv env;
};

TEST_F(SessionNodes, AnswersComeWithTheNumberOfTheirCommand) {
  const auto first = up("a");  // before there is a link
  env.connect_and_welcome();
  expect_up("a");
  const auto second = down({"x"});
  env.expect<message::NodesDown>();
  EXPECT_EQ(answer(), first);
  EXPECT_EQ(answer("no such node"), second);
  EXPECT_EQ(answer(), 0U);  // to nothing
}

TEST_F(SessionNodes, ABrokersNewIncarnationIsToldAgain) {
  env.connect_and_welcome();
  up("a");
  up("b");
  down({"n"});
  up("wrong");
  for (int i = 0; i < 4; ++i) answer(i == 3 ? "1:1: wrong" : "");
  env.sent.clear();
  new_broker();
  expect_up("a");
  expect_up("b");
  EXPECT_EQ(env.expect<message::NodesDown>().names, std::vector<std::string>{"n"});
  env.expect_nothing();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(answer(), 0U);  // nobody waits for these
  new_broker();                                         // and still
  expect_up("a");
  env.sent.clear();
}

TEST_F(SessionNodes, TheSameIncarnationIsToldOnlyWhatItDidNotAnswer) {
  env.connect_and_welcome();
  up("a");
  EXPECT_NE(answer(), 0U);
  const auto lost = up("b");
  env.collect();
  env.sent.clear();
  env.connect_and_welcome();
  expect_up("b");
  env.expect_nothing();
  EXPECT_EQ(answer(), lost);
}

TEST_F(SessionNodes, DownOfAllLeavesNothingToSayAgain) {
  env.connect_and_welcome();
  up("a");
  down({});
  answer();
  answer();
  up("c");
  answer();
  env.sent.clear();
  new_broker();
  expect_up("c");
  env.expect_nothing();
}

TEST_F(SessionNodes, TheSameHostsTwiceAreSaidAgainOnce) {
  env.connect_and_welcome();
  for (int i = 0; i < 100; ++i) {
    up("a");
    env.collect();
    answer();
  }
  env.sent.clear();
  new_broker();
  expect_up("a");
  env.expect_nothing();
}

TEST_F(SessionNodes, ForgottenCommandsAreNotSaidAgain) {
  up("a");
  env.session.forget_unanswered_nodes();
  env.connect_and_welcome();
  env.expect_nothing();
  up("b");
  expect_up("b");
  env.session.forget_unanswered_nodes();
  const auto kept = up("c");
  expect_up("c");
  EXPECT_EQ(answer(), 0U);  // to "b"
  EXPECT_EQ(answer(), kept);
}

}  // namespace
}  // namespace muster::test
