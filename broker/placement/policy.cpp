#include "broker/placement/policy.hpp"

#include <algorithm>
#include <cmath>

#include "common/time.hpp"

namespace muster::policy {
namespace {

// Time a worker's leases must cover beyond its slots: two round trips, so that new leases arrive
// before the old ones are used up, and the time that both sides take to form batches: outcomes wait
// up to 3 ms for each other at the worker, and a busy machine delays every loop by as much again.
constexpr Duration kBatchingSlack = std::chrono::milliseconds(8);
// Prefetch pays only when the round trip is more than this part of the task's duration.
constexpr double kNegligibleGap = 0.01;

}  // namespace

std::uint32_t prefetch(const JobRecord& job, const WorkerRecord& worker) {
  if (job.mean_duration == Duration(0)) return 0;
  const double horizon = static_cast<double>((2 * worker.round_trip + kBatchingSlack).count());
  const double ratio = horizon / static_cast<double>(job.mean_duration.count());
  if (ratio <= kNegligibleGap) return 0;
  const double ahead = std::ceil(static_cast<double>(worker.usable_slots()) * ratio);
  return static_cast<std::uint32_t>(std::min(ahead, double{limits::kMaxPrefetch}));
}

std::uint32_t room(const JobRecord& job, const WorkerRecord& worker, std::uint64_t load) {
  const std::uint32_t usable = worker.usable_slots();
  const std::uint32_t ahead = prefetch(job, worker);
  const std::uint64_t taken = ahead == 0 ? load - worker.short_leases : load;
  const bool full = worker.lease_bytes >= limits::kMaxPrefetchBytes;
  const std::uint32_t target = full ? usable : usable + ahead;
  return target > taken ? target - static_cast<std::uint32_t>(taken) : 0;
}

std::uint64_t share_of(const JobRecord& job, const WorkerRecord& worker,
                       std::uint64_t class_slots) {
  const std::uint64_t leasable = job.leasable();
  const std::uint64_t share =
      leasable * worker.hello.slots / std::max<std::uint64_t>(class_slots, 1);
  return std::min({leasable, std::max<std::uint64_t>(share, 1), limits::kBatchTasks});
}

bool has_room(const Demand& demand, const Demand::Candidate& candidate, const WorkerRecord& worker,
              std::uint64_t load, bool is_reserved) {
  return !is_reserved && worker.takes_leases() && load + candidate.width <= worker.usable_slots() &&
         worker.gpus_taken + demand.wanted.gpus <= worker.hello.gpus;
}

}  // namespace muster::policy
