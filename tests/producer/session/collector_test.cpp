// Order and window.
#include "producer/session/collector.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "common/protocol/blob_names.hpp"

namespace muster::test {
namespace {

class CollectorEnv {
 public:
  explicit CollectorEnv(Order order, std::size_t tasks = 100, std::size_t bytes = 1 << 20)
      : collector(order, tasks, bytes) {}
  ~CollectorEnv() { collector.check_invariants(); }

  void push(int count, std::size_t bytes = 1) {
    for (int i = 0; i < count; ++i) collector.pushed(bytes);
  }
  void deliver(std::uint64_t first, std::uint64_t count, std::size_t bytes = 1) {
    std::vector<Outcome> outcomes(count);
    for (Outcome& outcome : outcomes) {
      outcome.body.bytes = Bytes::copy(std::string(bytes, 'r'));
    }
    collector.deliver(TaskSequence{first}, std::move(outcomes));
    collector.check_invariants();
  }
  // The sequences that can be taken now.
  std::vector<std::uint64_t> take_all() {
    std::vector<std::uint64_t> sequences;
    while (auto collected = collector.next()) sequences.push_back(value(collected->sequence));
    collector.check_invariants();
    return sequences;
  }

  Collector collector;
};

using Sequences = std::vector<std::uint64_t>;

TEST(Collector, PutsOutcomesIntoSubmissionOrder) {
  CollectorEnv env(Order::submission);
  env.push(6);
  env.deliver(3, 2);
  EXPECT_EQ(env.take_all(), Sequences{});
  env.deliver(0, 1);
  EXPECT_EQ(env.take_all(), Sequences{0});
  env.deliver(1, 2);
  EXPECT_EQ(env.take_all(), (Sequences{1, 2, 3, 4}));
  EXPECT_FALSE(env.collector.finished());
  env.deliver(5, 1);
  EXPECT_EQ(env.take_all(), Sequences{5});
  EXPECT_TRUE(env.collector.finished());
}

TEST(Collector, PassesCompletionOrderOn) {
  CollectorEnv env(Order::completion);
  env.push(6);
  env.deliver(3, 2);
  env.deliver(0, 1);
  EXPECT_EQ(env.take_all(), (Sequences{3, 4, 0}));
  env.deliver(5, 1);
  env.deliver(1, 2);
  EXPECT_EQ(env.take_all(), (Sequences{5, 1, 2}));
  EXPECT_TRUE(env.collector.finished());
}

TEST(Collector, TheWindowOpensWithTheOldestTask) {
  for (const Order order : {Order::submission, Order::completion}) {
    CollectorEnv env(order, 4);
    env.push(4);
    EXPECT_FALSE(env.collector.has_room());
    env.deliver(1, 3);
    env.take_all();
    EXPECT_FALSE(env.collector.has_room());  // task 0 is missing
    env.deliver(0, 1);
    env.take_all();
    EXPECT_TRUE(env.collector.has_room());
  }
}

TEST(Collector, TheWindowCountsBytesOfPayloadsAndResults) {
  CollectorEnv env(Order::submission, 100, 1000);
  env.push(1, 5000);  // one is always allowed
  EXPECT_FALSE(env.collector.has_room());
  env.deliver(0, 1, 10);
  EXPECT_TRUE(env.collector.has_room());
  env.push(1, 500);
  env.deliver(1, 1, 2000);
  EXPECT_FALSE(env.collector.has_room());
  EXPECT_EQ(env.take_all(), (Sequences{0, 1}));
  EXPECT_TRUE(env.collector.has_room());
}

TEST(Collector, BeforeTheFirstOutcomeFewTasksAreSubmitted) {
  CollectorEnv env(Order::submission, 10'000);
  int pushed = 0;
  for (; env.collector.has_room(50); ++pushed) env.push(1);
  EXPECT_GT(pushed, 50);
  EXPECT_LT(pushed, 300);
  env.deliver(0, 1, 10);
  env.push(1000);
  EXPECT_TRUE(env.collector.has_room(50));  // results are small
}

TEST(Collector, TheWindowCountsWhatMissingResultsWillHave) {
  CollectorEnv env(Order::submission, 10'000, 10'000);
  env.push(20);
  env.deliver(0, 1, 1000);
  EXPECT_FALSE(env.collector.has_room());
  EXPECT_TRUE(env.collector.has_room(20));  // so many slots wait for work
  env.deliver(1, 12, 1000);
  EXPECT_FALSE(env.collector.has_room());
  EXPECT_EQ(env.take_all().size(), 13U);
  EXPECT_TRUE(env.collector.has_room());  // seven are missing
  env.push(3);
  EXPECT_FALSE(env.collector.has_room());
  env.deliver(13, 10, 1);  // a few that are small do not make the next ones so at once …
  env.take_all();
  env.push(100);
  EXPECT_FALSE(env.collector.has_room());
  env.deliver(23, 60, 1);  // … but many do
  EXPECT_TRUE(env.collector.has_room());
}

Payload naming(std::uint64_t blob, std::uint64_t size_bytes) {
  const BlobName name{{blob, 1}, size_bytes};
  return with_blobs({&name, 1}, {});
}

TEST(Collector, TheWindowCountsBlobsThatOneTaskNames) {
  CollectorEnv env(Order::submission, 100, 1000);
  env.collector.pushed(24, naming(1, 600));
  EXPECT_TRUE(env.collector.has_room());
  env.collector.pushed(24, naming(2, 600));
  EXPECT_FALSE(env.collector.has_room());
  EXPECT_EQ(env.collector.blob_bytes(), 1200U);
  env.deliver(0, 1);
  EXPECT_TRUE(env.collector.has_room());
  env.deliver(1, 1);
  EXPECT_EQ(env.collector.blob_bytes(), 0U);
}

TEST(Collector, ABlobThatTasksShareDoesNotCount) {
  CollectorEnv env(Order::submission, 100, 1000);
  env.collector.pushed(24, naming(1, 5000));
  EXPECT_FALSE(env.collector.has_room());
  EXPECT_TRUE(env.collector.has_room(1));  // so many slots wait for work
  env.collector.pushed(24, naming(1, 5000));
  EXPECT_EQ(env.collector.blob_bytes(), 0U);
  EXPECT_TRUE(env.collector.has_room());
  env.deliver(0, 2);
  env.collector.pushed(24, naming(1, 5000));  // nobody else names it now
  EXPECT_EQ(env.collector.blob_bytes(), 5000U);
}

TEST(Collector, SlotsThatWaitDoNotOpenTheWindowForPlainBytes) {
  CollectorEnv env(Order::submission, 100, 1000);
  env.push(1, 5000);
  EXPECT_FALSE(env.collector.has_room(16));
}

TEST(Collector, BlobsOfResultsCountUntilTheyAreTaken) {
  CollectorEnv env(Order::submission, 100, 1000);
  env.push(2);
  std::vector<Outcome> outcomes(1);
  outcomes[0].body = naming(7, 900);
  env.collector.deliver(TaskSequence{0}, std::move(outcomes));
  EXPECT_EQ(env.collector.blob_bytes(), 900U);
  env.take_all();
  EXPECT_EQ(env.collector.blob_bytes(), 0U);
}

TEST(Collector, ReturnsEachOnceWhateverTheOrderOfArrival) {
  constexpr std::uint64_t kTasks = 5000;
  for (const Order order : {Order::submission, Order::completion}) {
    CollectorEnv env(order, kTasks);
    env.push(kTasks);
    std::vector<std::uint64_t> sequences(kTasks);
    for (std::uint64_t i = 0; i < kTasks; ++i) sequences[i] = i;
    std::shuffle(sequences.begin(), sequences.end(), std::mt19937(1));
    Sequences taken;
    for (const std::uint64_t sequence : sequences) {
      env.collector.deliver(TaskSequence{sequence}, std::vector<Outcome>(1));
      while (auto collected = env.collector.next()) taken.push_back(value(collected->sequence));
    }
    EXPECT_TRUE(env.collector.finished());
    if (order == Order::submission) std::sort(sequences.begin(), sequences.end());
    EXPECT_EQ(taken, sequences);
  }
}

}  // namespace
}  // namespace muster::test
