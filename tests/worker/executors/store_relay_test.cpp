// What runners ask of stores, on its way to the broker and back: theirs under other names, again
// after a broken connection, and refused when no broker comes back.
#include "worker/executors/store_relay.hpp"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <variant>
#include <vector>

namespace muster {
namespace {

using std::chrono::seconds;

class StoreRelayTest : public ::testing::Test {
 protected:
  StoreRelay::Runner join() {
    const std::size_t number = heard_.size();
    heard_.emplace_back();
    return relay_.join([this, number](message::StoreAnswer&& answer) {
      heard_[number] +=
          std::to_string(answer.token) + (answer.reply.status == StoreStatus::refused ? "! " : " ");
    });
  }
  void ask(StoreRelay::Runner runner, std::uint64_t token, std::uint64_t claimant = 1,
           StoreOperation operation = StoreOperation::claim) {
    message::StoreRequest request{token, claimant, {}};
    request.question.operation = operation;
    request.question.key = std::to_string(token);
    relay_.ask(runner, std::move(request));
  }
  void leave(StoreRelay::Runner runner, std::uint64_t claimant) {
    ask(runner, 0, claimant, StoreOperation::leave);
  }
  // What the broker hears: the keys of questions, "-" for the end of one claimant, "=" for that of
  // all.
  std::string said(bool is_up = true) {
    std::string text;
    for (const Message& message : relay_.take_messages(is_up, now_)) {
      const auto& request = std::get<message::StoreRequest>(message);
      if (request.question.operation == StoreOperation::leave) {
        text += request.claimant == 0 ? "= " : "-" + names_[request.claimant] + " ";
        continue;
      }
      const std::string& key = request.question.key;
      text += key + " ";
      tokens_[key] = request.token;
      names_[request.claimant] = key;
      claimants_[key] = request.claimant;
    }
    return text;
  }
  void answer(const std::string& key) {
    message::StoreAnswer answer;
    answer.token = tokens_.at(key);
    answer.reply.status = StoreStatus::hit;
    relay_.answer(std::move(answer));
  }
  // The tokens of the answers that a runner got, "!" those that were refused.
  std::string heard(std::size_t runner) { return std::exchange(heard_[runner], ""); }

  StoreRelay relay_;
  Time now_{seconds(1000)};
  std::vector<std::string> heard_;
  std::map<std::string, std::uint64_t> tokens_;     // ours, by key
  std::map<std::string, std::uint64_t> claimants_;  // ours, by key
  std::map<std::uint64_t, std::string> names_;      // of claimants: the first key they asked for
};

TEST_F(StoreRelayTest, RunnersThatUseTheSameNumbersAreKeptApart) {
  const auto first = join();
  const auto second = join();
  ask(first, 1);
  ask(second, 1);
  ask(first, 2, 7);
  ask(first, 3, 7);
  const auto messages = relay_.take_messages(true, now_);
  ASSERT_EQ(messages.size(), 4U);
  std::vector<std::uint64_t> tokens;
  std::vector<std::uint64_t> claimants;
  for (const Message& message : messages) {
    tokens.push_back(std::get<message::StoreRequest>(message).token);
    claimants.push_back(std::get<message::StoreRequest>(message).claimant);
  }
  EXPECT_NE(tokens[0], tokens[1]);
  EXPECT_NE(claimants[0], claimants[1]);
  EXPECT_NE(claimants[0], claimants[2]) << "two tasks of one runner";
  EXPECT_EQ(claimants[2], claimants[3]) << "one task";
  for (const std::size_t number : {3, 1, 0, 0}) {
    relay_.answer({tokens[number], {.status = StoreStatus::hit}});
  }
  relay_.answer({999'999, {}});
  EXPECT_EQ(heard(0), "3 1 ") << "each answer once";
  EXPECT_EQ(heard(1), "1 ");
}

TEST_F(StoreRelayTest, WhatARunnerClaimsEndsWithIt) {
  const auto first = join();
  const auto second = join();
  ask(first, 1, 1);
  ask(first, 2, 2);
  ask(second, 3, 1);
  EXPECT_EQ(said(), "1 2 3 ");
  ask(first, 4, 1);
  leave(first, 2);
  leave(first, 9);  // who claims nothing
  EXPECT_EQ(said(), "-2 4 ");
  ask(first, 5, 1);
  relay_.leave(first);
  relay_.leave(first);
  ask(first, 6, 1);
  EXPECT_EQ(said(), "-4 ") << "nor is its last question asked";
  answer("1");
  EXPECT_EQ(heard(0), "") << "it is gone";
  answer("3");
  EXPECT_EQ(heard(1), "3 ");
  EXPECT_EQ(said(), "");
}

TEST_F(StoreRelayTest, ANewConnectionEndsAllClaimsAndAsksAgain) {
  const auto runner = join();
  EXPECT_EQ(said(false), "");
  ask(runner, 1);
  EXPECT_EQ(said(false), "");
  EXPECT_EQ(said(), "1 ") << "nobody had asked before: there is nothing to end";
  ask(runner, 2);
  EXPECT_EQ(said(), "2 ");
  answer("1");
  EXPECT_EQ(said(false), "");
  leave(runner, 1);  // the new connection says it
  ask(runner, 3, 2);
  EXPECT_EQ(said(false), "");
  EXPECT_EQ(said(), "= 2 3 ");
  EXPECT_EQ(said(), "");
  answer("3");
  answer("2");
  EXPECT_EQ(heard(0), "1 3 2 ");
  EXPECT_EQ(said(false), "");
  EXPECT_EQ(said(), "= ");
}

TEST_F(StoreRelayTest, WithoutABrokerQuestionsAreRefusedAfterAWhile) {
  const auto runner = join();
  EXPECT_EQ(relay_.next_deadline(), kNever);
  ask(runner, 1);
  EXPECT_EQ(said(), "1 ");
  EXPECT_EQ(relay_.next_deadline(), kNever);
  now_ += seconds(100);
  EXPECT_EQ(said(false), "");
  EXPECT_EQ(relay_.next_deadline(), now_ + seconds(30));
  now_ += seconds(29);
  EXPECT_EQ(said(false), "");
  EXPECT_EQ(heard(0), "");
  now_ += seconds(1);
  EXPECT_EQ(said(false), "");
  EXPECT_EQ(heard(0), "1! ");
  EXPECT_EQ(relay_.next_deadline(), kNever);
  now_ += seconds(100);
  ask(runner, 2);  // nobody has looked in between
  EXPECT_EQ(said(false), "");
  EXPECT_EQ(heard(0), "") << "the broker may come back for this one";
  EXPECT_EQ(relay_.next_deadline(), now_ + seconds(30));
  now_ += seconds(10);
  EXPECT_EQ(said(), "= 2 ");
  EXPECT_EQ(relay_.next_deadline(), kNever);
  answer("2");
  EXPECT_EQ(heard(0), "2 ");
}

TEST_F(StoreRelayTest, AnAnswerToAQuestionThatIsToBeAskedAgainCounts) {
  const auto runner = join();
  ask(runner, 1);
  ask(runner, 2);
  EXPECT_EQ(said(), "1 2 ");
  EXPECT_EQ(said(false), "");
  answer("1");  // it had arrived before the connection broke
  EXPECT_EQ(said(), "= 2 ");
  EXPECT_EQ(heard(0), "1 ");
  EXPECT_EQ(said(), "");
}

}  // namespace
}  // namespace muster
