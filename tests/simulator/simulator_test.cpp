// Runs the pure cores against each other, seed after seed (tests/simulator/world.hpp).
//
// MUSTER_SEEDS=N runs N seeds instead of 400, MUSTER_FIRST_SEED=S begins with S instead of 1;
// MUSTER_SEED=S runs that one alone and prints its plan, and with MUSTER_TRACE=1 every message. A
// failure, an abort too, prints the command that repeats it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>

#include "tests/simulator/world.hpp"

namespace muster::simulator {
namespace {

constexpr std::uint64_t kSeeds = 400;
constexpr int kMostFailures = 10;  // then the others are not looked at

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

std::string replay_of(std::uint64_t seed) {
  return "replay: MUSTER_SEED=" + std::to_string(seed) +
         " build/release/bin/simulator_tests --gtest_filter='*EverySeed*'\n";
}

// A broken invariant ends the process: it says which seed that was.
std::string replay_when_aborted;

class Simulator : public ::testing::Test {
 protected:
  void SetUp() override {
    before_ = std::signal(SIGABRT, [](int) {
      const std::string& text = replay_when_aborted;
      [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
    });
  }
  void TearDown() override { std::signal(SIGABRT, before_); }

 private:
  void (*before_)(int) = SIG_DFL;
};

// What never happened was not tested.
constexpr const char* kMustHappen[] = {
    // Faults
    "link_breaks", "partitions", "worker_crashes", "broker_crashes", "pauses", "cancels",
    "absences_of_workers", "absences_of_producers", "half_open_mute", "half_open_deaf",
    "stalls_of_workers", "stalls_of_producers", "stalls_of_the_broker", "late_at_broker",
    "late_at_peer", "unsent_said", "drains", "leaves", "leaves_with_tasks", "deaths_of_producers",
    "goodbyes_of_producers", "hostile_says", "hostile_mangles", "hostile_claims", "hostile_masks",
    "hostile_greets_from_afar",
    // What they lead to
    "agent_silent", "session_silent", "lost_from_sight", "sessions_expired", "producers_silent",
    "workers_left", "workers_lost", "leases_adopted", "leases_lost", "leases_lost_waiting",
    "leases_refused", "leases_returned", "outcomes_late", "tasks_retried", "messages_before_hello",
    "peers_refused", "messages_malformed", "messages_ignored", "ran_twice_at_once", "poison_lost",
    // What goes on beside them
    "outcome_0", "outcome_1", "outcome_3", "outcome_4", "recalls", "output_heard", "pool_told",
    "caps_reached", "demanding_runs", "workers_reserved", "blobs_fetched", "blobs_found",
    "blobs_evicted", "blobs_used", "blobs_shared", "blob_lost", "blobs_released", "blobs_missing",
    "result_blobs", "settled"};

// What happens in one seed of a hundred.
constexpr std::uint64_t kManySeeds = 2000;
constexpr const char* kRare[] = {"hostile_runs"};

TEST_F(Simulator, EverySeedDeliversEachTaskOnceInOrder) {
  const std::uint64_t one = from_environment("MUSTER_SEED", 0);
  const std::uint64_t first = one == 0 ? from_environment("MUSTER_FIRST_SEED", 1) : one;
  const std::uint64_t seeds = one == 0 ? from_environment("MUSTER_SEEDS", kSeeds) : 1;
  std::map<std::string, std::uint64_t> total;
  int failures = 0;
  for (std::uint64_t seed = first; seed < first + seeds && failures < kMostFailures; ++seed) {
    Plan plan = Plan::draw(seed);
    plan.trace = std::getenv("MUSTER_TRACE") != nullptr;
    if (one != 0) std::cout << plan.describe() << std::endl;
    replay_when_aborted = plan.describe() + "\n" + replay_of(seed);
    World world(plan);
    const std::string failure = world.run();
    for (const auto& [name, count] : world.coverage().counts) total[name] += count;
    if (failure.empty()) continue;
    ++failures;
    ADD_FAILURE() << failure << "\n" << plan.describe() << "\n" << replay_of(seed);
  }
  if (one != 0 || seeds < kSeeds || failures > 0) return;
  for (const auto& [name, count] : total) std::cout << name << " " << count << "\n";
  for (const char* name : kMustHappen) {
    EXPECT_GT(total[name], 0U) << name << " never happened in any seed";
  }
  if (seeds < kManySeeds) return;
  for (const char* name : kRare) {
    EXPECT_GT(total[name], 0U) << name << " never happened in any seed";
  }
}

TEST_F(Simulator, ASeedRepeatsExactly) {
  for (const std::uint64_t seed : {3, 17, 42, 60}) {
    replay_when_aborted = replay_of(seed);
    World first(Plan::draw(seed));
    World second(Plan::draw(seed));
    EXPECT_EQ(first.run(), second.run());
    EXPECT_EQ(first.digest(), second.digest()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace muster::simulator
