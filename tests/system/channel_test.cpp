// Channels over a real broker and worker: many jobs, one place where outcomes come out.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <muster/pack.hpp>
#include <muster/producer.hpp>
#include <set>
#include <thread>

#include "tests/system/pool.hpp"

namespace muster::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kLong = 20s;

struct RunningPool : Pool {
  RunningPool() { start(); }
};

class ChannelTest : public ::testing::Test {
 protected:
  template <typename... Arguments>
  std::uint64_t push(std::uint32_t job, const Arguments&... arguments) {
    return channel.push(job, pack_arguments(arena, arguments...));
  }
  // The next `count` outcomes, however many come at once.
  std::vector<ChannelOutcome> take(std::size_t count) {
    std::vector<ChannelOutcome> all;
    while (all.size() < count) {
      std::vector<ChannelOutcome> items = channel.next(kLong, count - all.size());
      if (items.empty()) {
        ADD_FAILURE() << all.size() << " of " << count << " outcomes came";
        break;
      }
      for (ChannelOutcome& item : items) all.push_back(std::move(item));
    }
    return all;
  }
  static Options options(const Pool& pool) {
    Options options;
    options.endpoint = pool.endpoint();
    options.broker_timeout = 2s;
    return options;
  }

  RunningPool pool;
  Producer producer{options(pool)};
  Channel channel = producer.channel();
  BytesArena arena;
};

TEST_F(ChannelTest, OutcomesOfManyJobsComeOutOfOnePlace) {
  const std::uint32_t squares = channel.open({"square"});
  const std::uint32_t sums = channel.open({"add"});
  ASSERT_NE(squares, sums);
  for (std::int64_t i = 0; i < 500; ++i) {
    EXPECT_EQ(push(squares, i), static_cast<std::uint64_t>(i));
    EXPECT_EQ(push(sums, i, std::int64_t{1}), static_cast<std::uint64_t>(i));
  }
  std::map<std::uint32_t, std::set<std::uint64_t>> seen;
  for (const ChannelOutcome& item : take(1000)) {
    ASSERT_FALSE(item.error);
    const auto input = static_cast<std::int64_t>(item.sequence);
    EXPECT_EQ(unpack_value<std::int64_t>(item.result),
              item.job == squares ? input * input : input + 1);
    EXPECT_TRUE(seen[item.job].insert(item.sequence).second);
  }
  EXPECT_EQ(seen[squares].size() + seen[sums].size(), 1000U);
  EXPECT_TRUE(channel.next(10ms).empty());
}

TEST_F(ChannelTest, ABatchHasAtMostWhatWasAskedFor) {
  const std::uint32_t job = channel.open({"square"});
  for (int i = 0; i < 10; ++i) push(job, std::int64_t{i});
  std::size_t count = 0;
  while (count < 10) {
    const auto items = channel.next(kLong, 3);
    ASSERT_FALSE(items.empty());
    ASSERT_LE(items.size(), 3U);
    count += items.size();
  }
}

TEST_F(ChannelTest, AFailedTaskHasItsError) {
  const std::uint32_t job = channel.open({"fail"});
  push(job, "no luck");
  const auto items = take(1);
  ASSERT_EQ(items.size(), 1U);
  ASSERT_TRUE(items[0].error);
  EXPECT_EQ(items[0].error->code(), ErrorCode::task_failed);
  EXPECT_EQ(items[0].error->kind(), "exception");
  EXPECT_NE(std::string(items[0].error->what()).find("no luck"), std::string::npos);
}

TEST_F(ChannelTest, WakeEndsAWait) {
  std::thread waker([&] { channel.wake(); });
  EXPECT_TRUE(channel.next(kLong).empty());
  waker.join();
}

TEST_F(ChannelTest, CancelEndsOneTaskOrAll) {
  const std::uint32_t job = channel.open({"sleep_ms"});
  for (int i = 0; i < 6; ++i) push(job, 60'000);
  channel.cancel(job, 5);
  auto items = take(1);
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0].sequence, 5U);
  EXPECT_EQ(items[0].error->code(), ErrorCode::task_cancelled);
  channel.cancel(job);  // two of them run: threads cannot be killed, the broker answers for them
  for (const ChannelOutcome& item : take(5)) {
    EXPECT_EQ(item.error->code(), ErrorCode::task_cancelled);
  }
}

TEST_F(ChannelTest, NothingComesOfADroppedJob) {
  const std::uint32_t dropped = channel.open({"square"});
  const std::uint32_t kept = channel.open({"square"});
  for (int i = 0; i < 100; ++i) push(dropped, std::int64_t{i});
  channel.drop(dropped);
  channel.drop(dropped);
  for (int i = 0; i < 100; ++i) push(kept, std::int64_t{i});
  for (const ChannelOutcome& item : take(100)) EXPECT_EQ(item.job, kept);
  EXPECT_TRUE(channel.next(20ms).empty());
  EXPECT_THROW(push(dropped, std::int64_t{1}), Error);
}

TEST_F(ChannelTest, ThousandsOfJobsOneAfterAnotherLeaveNothing) {
  for (int round = 0; round < 3000; ++round) {
    const std::uint32_t job = channel.open({"square"});
    push(job, std::int64_t{3});
    channel.close(job);
    ASSERT_EQ(take(1).at(0).job, job);
    if (round % 2 == 0) channel.drop(job);
  }
  EXPECT_TRUE(eventually([&] {  // what ends the last job may follow the request
    return producer.status().json.find("\"function\": \"square\"") == std::string::npos;
  }));
}

TEST_F(ChannelTest, ThreadsPushAndTakeAtOnce) {
  constexpr int kThreads = 4;
  constexpr int kTasks = 3000;
  const std::uint32_t job = channel.open({"add"});
  std::atomic<int> taken{0};
  std::atomic<bool> wrong{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {  // every sequence is another one: the sum of them is known
      BytesArena own;
      for (int i = 0; i < kTasks; ++i) {
        channel.push(job, pack_arguments(own, std::int64_t{1}, std::int64_t{1}));
      }
    });
    threads.emplace_back([&] {
      while (taken < kThreads * kTasks && !wrong) {
        for (const ChannelOutcome& item : channel.next(100ms, 64)) {
          if (item.error || unpack_value<std::int64_t>(item.result) != 2) wrong = true;
          ++taken;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(wrong);
  EXPECT_EQ(taken, kThreads * kTasks);
  EXPECT_EQ(push(job, std::int64_t{0}, std::int64_t{0}), std::uint64_t{kThreads} * kTasks);
}

TEST_F(ChannelTest, ABrokerThatIsGoneEndsTheWaitAndOneThatIsBackServesNewJobs) {
  const std::uint32_t job = channel.open({"square"});
  push(job, std::int64_t{2});
  take(1);
  pool.broker.reset();
  push(job, std::int64_t{3});
  EXPECT_THROW(channel.next(kLong), Error);
  EXPECT_THROW(push(job, std::int64_t{4}), Error);
  EXPECT_THROW(channel.next(kLong), Error);
  channel.close(job);
  pool.start_broker();
  const auto slots_are_back = [&] {
    try {
      return producer.wait_for_slots(2, 1s);
    } catch (const Error&) {
      return false;  // the broker is not heard yet
    }
  };
  ASSERT_TRUE(eventually(slots_are_back));
  const std::uint32_t again = channel.open({"square"});
  push(again, std::int64_t{5});
  const auto items = take(1);
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items[0].job, again);
}

TEST(ChannelLife, ItMayOutliveTheProducer) {
  Pool pool;
  pool.start();
  std::optional<Channel> channel;
  BytesArena arena;
  std::uint32_t job = 0;
  {
    Options options;
    options.endpoint = pool.endpoint();
    Producer producer(options);
    channel.emplace(producer.channel());
    job = channel->open({"sleep_ms"});
    channel->push(job, pack_arguments(arena, 60'000));
  }
  EXPECT_THROW(channel->next(kLong), Error);
  const std::uint32_t late = channel->open({"square"});
  EXPECT_THROW(channel->push(late, {}), Error);
}

TEST_F(ChannelTest, ACappedJobRunsFewTasksAtOnceWhileAnotherUsesTheRest) {
  JobOptions one_at_once;
  one_at_once.max_running = 1;
  const std::uint32_t capped = channel.open({"sleep_ms"}, one_at_once);
  const std::uint32_t free = channel.open({"add"});
  for (int i = 0; i < 4; ++i) push(capped, 50);
  for (int i = 0; i < 100; ++i) push(free, std::int64_t{1}, std::int64_t{2});
  const auto start = std::chrono::steady_clock::now();
  std::size_t capped_before_free = 0;
  std::size_t free_seen = 0;
  for (const ChannelOutcome& item : take(104)) {
    ASSERT_FALSE(item.error);
    if (item.job == free) ++free_seen;
    if (item.job == capped && free_seen < 100) ++capped_before_free;
  }
  EXPECT_GE(std::chrono::steady_clock::now() - start, 200ms) << "two of them ran at once";
  EXPECT_LT(capped_before_free, 4U);
}

TEST_F(ChannelTest, TotalSlotsFollowTheWorkers) {
  ASSERT_TRUE(producer.wait_for_slots(2, 20s));
  EXPECT_EQ(producer.total_slots(), 2U);
  EXPECT_FALSE(producer.wait_for_slots(3, 20ms));
  pool.worker.reset();
  EXPECT_TRUE(eventually([&] { return producer.total_slots() == 0; }));
}

}  // namespace
}  // namespace muster::test
