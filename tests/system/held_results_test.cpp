// Programs that do not take their results, over a real broker and worker: no more tasks start than
// those whose results fit, and all of them run once somebody takes results.
#include <gtest/gtest.h>

#include <muster/pack.hpp>
#include <muster/producer.hpp>
#include <optional>
#include <string>
#include <utility>

#include "common/protocol/limits.hpp"
#include "tests/system/pool.hpp"

namespace muster::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kResultBytes = 400'000;  // below that of a blob
constexpr std::uint64_t kTasks = 1'200;
// What runs, is on its way, or was not said yet.
constexpr std::uint64_t kSlackBytes = 32 << 20;
constexpr std::uint64_t kMostHeld = (limits::kHeldResultBytes + kSlackBytes) / kResultBytes;

struct RunningPool : Pool {
  RunningPool() { start(); }
};

class HeldResultsTest : public ::testing::Test {
 protected:
  static Options options(const Pool& pool) {
    Options options;
    options.endpoint = pool.endpoint();
    return options;
  }
  Bytes arguments() { return pack_arguments(arena, kResultBytes); }
  // How many tasks of the job have run, when no more start.
  std::optional<std::uint64_t> done_when_full() {
    std::string json;
    const bool is_full = eventually(
        [&] {
          json = producer.status().json;
          return json.find("its results wait") != std::string::npos;
        },
        120s);
    const std::string key = "\"done\": ";
    const std::size_t found = json.find(key);
    if (!is_full || found == std::string::npos) {
      ADD_FAILURE() << json;
      return std::nullopt;
    }
    return std::stoull(json.substr(found + key.size()));
  }
  void expect_bounded(std::optional<std::uint64_t> done) {
    EXPECT_LE(done.value_or(kTasks), kMostHeld);
    EXPECT_GE(done.value_or(0), kMostHeld / 2) << "much less would slow down who reads";
  }

  RunningPool pool;
  Producer producer{options(pool)};
  BytesArena arena;
};

TEST_F(HeldResultsTest, OfAStreamAreBoundedWhateverItPushed) {
  JobOptions job;
  job.window = kTasks;
  job.window_bytes = std::size_t{1} << 40;
  Stream stream = producer.stream({"big_result"}, job);
  for (std::uint64_t i = 0; i < kTasks; ++i) stream.push(arguments());
  stream.close();
  expect_bounded(done_when_full());
  for (std::uint64_t i = 0; i < kTasks; ++i) {
    const auto item = stream.next(60s);
    ASSERT_TRUE(item && !item->error) << i;
    ASSERT_EQ(item->sequence, i);
  }
  EXPECT_FALSE(stream.next());
}

TEST_F(HeldResultsTest, AStreamThatGoesLeavesTheRoomToOthers) {
  for (int round = 0; round < 2; ++round) {
    JobOptions job;
    job.window = kTasks;
    job.window_bytes = std::size_t{1} << 40;
    Stream stream = producer.stream({"big_result"}, job);
    for (std::uint64_t i = 0; i < kTasks; ++i) stream.push(arguments());
    expect_bounded(done_when_full());
  }
}

TEST_F(HeldResultsTest, OfAChannelThatNobodyReadsAreBounded) {
  Channel channel = producer.channel();
  const std::uint32_t job = channel.open({"big_result"});
  for (std::uint64_t i = 0; i < kTasks; ++i) channel.push(job, arguments());
  expect_bounded(done_when_full());
  std::uint64_t taken = 0;
  while (taken < kTasks) {
    const auto items = channel.next(60s);
    ASSERT_FALSE(items.empty()) << taken;
    taken += items.size();
  }
}

TEST_F(HeldResultsTest, CountUntilTheProgramSaysThatTheyAreConsumedIfItWill) {
  Channel channel = producer.channel();
  const std::uint32_t job = channel.open({"big_result"}, {}, ResultsCount::until_consumed);
  for (std::uint64_t i = 0; i < kTasks; ++i) channel.push(job, arguments());
  channel.close(job);
  std::uint64_t taken = 0;
  std::uint64_t bytes = 0;
  const auto take = [&](std::chrono::seconds patience) {
    const auto items = channel.next(patience);
    for (const ChannelOutcome& item : items) bytes += item.result.size();
    taken += items.size();
    return !items.empty();
  };
  std::optional<std::uint64_t> done;
  while (taken < kMostHeld / 2) ASSERT_TRUE(take(60s));
  expect_bounded(done = done_when_full());
  while (taken < done.value_or(0)) ASSERT_TRUE(take(60s));
  channel.consumed(job, std::exchange(bytes, 0));
  while (taken < kTasks) {
    ASSERT_TRUE(take(60s)) << taken;
    channel.consumed(job, std::exchange(bytes, 0));
  }
}

}  // namespace
}  // namespace muster::test
