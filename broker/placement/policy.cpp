#include "broker/placement/policy.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

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

bool is_better(const TaskRecord& task, const Choice& left, const Choice& right) {
  const bool came_back = task.attempts_made > 0;
  const auto rank = [&](const Choice& choice) {
    return std::tuple(came_back && choice.missing_bytes > 0, choice.level, choice.missing_bytes,
                      choice.width);
  };
  return rank(left) < rank(right);
}

std::uint32_t prefetch(const JobRecord& job, const WorkerRecord& worker) {
  if (job.mean_duration == Duration(0) || job.demand != nullptr) return 0;
  const double horizon = static_cast<double>((2 * worker.round_trip + kBatchingSlack).count());
  const double ratio = horizon / static_cast<double>(job.mean_duration.count());
  if (ratio <= kNegligibleGap) return 0;
  const double ahead = std::ceil(static_cast<double>(worker.usable_slots()) * ratio);
  return static_cast<std::uint32_t>(std::min(ahead, double{limits::kMaxPrefetch}));
}

std::uint32_t room(const JobRecord& job, const WorkerRecord& worker, std::uint64_t load,
                   std::uint32_t ahead, std::uint32_t width) {
  const std::uint32_t usable = worker.usable_slots();
  if (job.demand != nullptr) {
    std::uint32_t fitting = usable > load ? (usable - static_cast<std::uint32_t>(load)) / width : 0;
    if (const std::uint32_t wanted = job.demand->wanted.gpus; wanted > 0) {
      const std::uint64_t taken = std::min<std::uint64_t>(worker.gpus_taken, worker.hello.gpus);
      fitting = std::min(fitting, (worker.hello.gpus - static_cast<std::uint32_t>(taken)) / wanted);
    }
    return fitting;
  }
  const std::uint64_t taken = ahead == 0 ? load - worker.short_leases : load;
  const bool full = worker.lease_bytes >= limits::kMaxPrefetchBytes;
  const std::uint32_t target = full ? usable : usable + ahead;
  return target > taken ? target - static_cast<std::uint32_t>(taken) : 0;
}

std::uint64_t share_of(const JobRecord& job, const WorkerRecord& worker,
                       std::uint64_t class_slots) {
  const std::uint64_t leasable = job.leasable();
  const std::uint64_t share =
      job.demand != nullptr
          ? leasable / std::max<std::size_t>(job.demand->candidates.size(), 1)
          : leasable * worker.hello.slots / std::max<std::uint64_t>(class_slots, 1);
  return std::min({leasable, std::max<std::uint64_t>(share, 1), limits::kBatchTasks});
}

}  // namespace muster::policy
