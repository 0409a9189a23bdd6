// Runs the pure cores against each other, seed after seed (tests/simulator/world.hpp).
//
// MUSTER_SEEDS=N runs N seeds instead of 200; MUSTER_SEED=S runs that one alone and prints its
// plan.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "tests/simulator/world.hpp"

namespace muster::simulator {
namespace {

constexpr std::uint64_t kSeeds = 200;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(Simulator, EverySeedDeliversEachTaskOnceInOrder) {
  const std::uint64_t one = from_environment("MUSTER_SEED", 0);
  const std::uint64_t first = one == 0 ? 1 : one;
  const std::uint64_t last = one == 0 ? from_environment("MUSTER_SEEDS", kSeeds) : one;
  std::map<std::string, std::uint64_t> total;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    const Plan plan = Plan::draw(seed);
    if (one != 0) std::cout << plan.describe() << std::endl;
    World world(plan);
    const std::string failure = world.run();
    for (const auto& [name, count] : world.coverage().counts) total[name] += count;
    ASSERT_EQ(failure, "") << plan.describe() << "\nreplay: MUSTER_SEED=" << seed
                           << " simulator_tests";
  }
  if (one != 0 || last < kSeeds) return;
  for (const auto& [name, count] : total) std::cout << name << " " << count << "\n";
  // What never happened was not tested.
  for (const char* name :
       {"outcome_0",          "outcome_1",      "outcome_3",      "outcome_4",      "link_breaks",
        "partitions",         "worker_crashes", "broker_crashes", "leases_adopted", "leases_lost",
        "leases_returned",    "outcomes_late",  "tasks_retried",  "recalls",        "workers_lost",
        "output_heard",       "pool_told",      "caps_reached",   "demanding_runs", "pauses",
        "workers_reserved",   "blobs_fetched",  "blobs_found",    "blobs_evicted",  "blobs_used",
        "blobs_shared",       "blob_lost",      "blobs_released", "blobs_missing",  "result_blobs",
        "leases_lost_waiting"}) {
    EXPECT_GT(total[name], 0U) << name << " never happened in any seed";
  }
}

TEST(Simulator, ASeedRepeatsExactly) {
  for (const std::uint64_t seed : {3, 17, 42}) {
    World first(Plan::draw(seed));
    World second(Plan::draw(seed));
    EXPECT_EQ(first.run(), second.run());
    EXPECT_EQ(first.digest(), second.digest()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace muster::simulator
