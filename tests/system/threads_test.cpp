// One Producer under many threads: whoever waits or submits may do the connection's work.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <muster/pack.hpp>
#include <muster/producer.hpp>
#include <thread>
#include <vector>

#include "tests/system/pool.hpp"

namespace muster::test {
namespace {

using namespace std::chrono_literals;

constexpr auto kLong = 20s;

struct RunningPool : Pool {
  RunningPool() { start(); }
};

class ThreadsTest : public ::testing::Test {
 protected:
  static Options options(const Pool& pool) {
    Options options;
    options.endpoint = pool.endpoint();
    return options;
  }
  static Bytes number(std::int64_t value) {
    BytesArena arena;
    return pack_arguments(arena, value);
  }
  static std::int64_t square(Job& job, std::int64_t value) {
    return unpack_value<std::int64_t>(job.submit_raw(number(value)).get(kLong));
  }
  void in_background(std::function<void()> work) { threads.emplace_back(std::move(work)); }
  void join() {
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  RunningPool pool;
  std::unique_ptr<Producer> producer = std::make_unique<Producer>(options(pool));
  std::vector<std::thread> threads;
};

TEST_F(ThreadsTest, EachThreadGetsItsOwnResults) {
  for (std::int64_t t = 0; t < 4; ++t) {
    in_background([this, t] {
      Job job = producer->job({"square"});
      for (std::int64_t i = 0; i < 200; ++i) EXPECT_EQ(square(job, t + i), (t + i) * (t + i));
    });
  }
  join();
}

TEST_F(ThreadsTest, OneThreadPushesAnotherTakes) {
  constexpr std::uint64_t kTasks = 1000;
  Channel channel = producer->channel();
  const std::uint32_t job = channel.open({"square"});
  std::atomic<std::uint64_t> taken{0};
  std::atomic<bool> stuck{false};
  in_background([&] {
    while (taken < kTasks && !stuck) {
      const auto items = channel.next(kLong);
      stuck = items.empty();
      for (const ChannelOutcome& item : items) {
        EXPECT_EQ(unpack_value<std::uint64_t>(item.result), item.sequence * item.sequence);
      }
      taken += items.size();
    }
  });
  for (std::uint64_t i = 0; i < kTasks; ++i) {
    channel.push(job, number(static_cast<std::int64_t>(i)));
    // Alone, in small groups and in bursts.
    while (i % 3 == 0 && i < kTasks / 2 && taken <= i && !stuck) std::this_thread::yield();
  }
  join();
  EXPECT_EQ(taken, kTasks);
}

TEST_F(ThreadsTest, ALoneWaiterOutlivesShortWaitsAndManyTasks) {
  Job job = producer->job({"square"});
  Stream stream = producer->stream({"square"});
  for (std::int64_t round = 0; round < 20; ++round) {
    for (std::int64_t i = 0; i < 300; ++i) stream.push(number(i));
    EXPECT_EQ(square(job, round), round * round);
    for (std::int64_t i = 0; i < 300; ++i) {
      std::optional<StreamItem> item;
      while (!(item = stream.next(1us)) && stream.timed_out()) {
      }
      ASSERT_TRUE(item && !item->error);
      EXPECT_EQ(unpack_value<std::int64_t>(item->result), i * i);
    }
  }
}

// The one that leads ends its wait: the other's outcome is still received.
TEST_F(ThreadsTest, AWaitGoesOnWhenTheLeaderLeaves) {
  Channel idle = producer->channel();
  Job job = producer->job({"square"});
  std::atomic<bool> over{false};
  in_background([&] {
    while (!over) idle.next(300us);
  });
  for (std::int64_t i = 0; i < 300; ++i) EXPECT_EQ(square(job, i), i * i);
  over = true;
  join();
}

TEST_F(ThreadsTest, WakeEndsALeadersWait) {
  Channel channel = producer->channel();
  std::atomic<bool> over{false};
  in_background([&] {
    EXPECT_TRUE(channel.next(kLong).empty());
    over = true;
  });
  while (!over) {
    channel.wake();
    std::this_thread::yield();
  }
  join();
}

TEST_F(ThreadsTest, TheEndOfTheProducerEndsEveryWait) {
  for (int round = 0; round < 10; ++round) {
    if (!producer) producer = std::make_unique<Producer>(options(pool));
    std::atomic<int> waiting{0};
    for (int t = 0; t < 3; ++t) {
      auto job = std::make_shared<Job>(producer->job({"square"}));
      in_background([&waiting, job] {
        ++waiting;
        try {
          while (true) square(*job, 3);
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), "closed");
        }
      });
    }
    while (waiting < 3) std::this_thread::yield();
    producer.reset();
    join();
  }
}

}  // namespace
}  // namespace muster::test
