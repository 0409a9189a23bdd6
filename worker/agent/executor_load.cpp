#include "worker/agent/executor_load.hpp"

#include <algorithm>
#include <numeric>

#include "common/check.hpp"

namespace muster {
namespace {

// More than this per slot is of no use to microsecond tasks and only makes recalls slow.
constexpr std::uint64_t kMostAhead = 4096;

// Each new duration moves the mean by a sixteenth: quick to learn, not thrown by one outlier.
constexpr int kMeanShift = 4;

}  // namespace

ExecutorLoad::ExecutorLoad(std::uint32_t slots, std::uint32_t gpus, Duration start_window)
    : slots_(slots), gpus_(gpus), start_window_(start_window), device_taken_(gpus) {}

bool ExecutorLoad::set_stuck(std::uint32_t slots) {
  const std::uint32_t stuck = std::min(slots, slots_);
  if (stuck == stuck_) return false;
  stuck_ = stuck;
  return true;
}

// How many leases the executor may hold when the next one is of this job.
std::uint64_t ExecutorLoad::allowance(const HeldJob& job) const {
  const std::uint64_t free = slots_ - stuck_;
  const std::size_t others = tasks() - by_kind_[kind_of(job)];
  // Kinds share the slots: beside another kind nothing may wait inside the executor, because its
  // parts do not see each other's queues. Neither may anything wait beside a wide task.
  if (others > 0 || demanding_ > 0 || !job.mean_known) return free;
  const std::int64_t mean = std::max<std::int64_t>(job.mean.count(), 1);
  const auto ahead = static_cast<std::uint64_t>(start_window_.count() / mean);
  return free * (1 + std::min(ahead, kMostAhead - 1));
}

bool ExecutorLoad::may_start(const HeldJob& job) const {
  const std::size_t used = tasks() + extra_slots_;
  if (!job.demanding) return used < allowance(job);
  const auto taken = std::count(device_taken_.begin(), device_taken_.end(), true);
  return used + job.width <= slots_ - stuck_ &&
         static_cast<std::uint64_t>(taken) + job.gpus <= gpus_;
}

std::vector<std::uint32_t> ExecutorLoad::start(const HeldJob& job, const Lease& lease) {
  ++by_kind_[kind_of(job)];
  if (!job.demanding) return {};
  ++demanding_;
  extra_slots_ += job.width - 1;
  std::vector<std::uint32_t> devices;
  for (std::uint32_t i = 0; i < gpus_ && devices.size() < job.gpus; ++i) {
    if (device_taken_[i]) continue;
    device_taken_[i] = true;
    devices.push_back(i);
  }
  if (!devices.empty()) devices_[lease] = devices;
  return devices;
}

void ExecutorLoad::end(const HeldJob& job, const Lease& lease) {
  --by_kind_[kind_of(job)];
  if (!job.demanding) return;
  --demanding_;
  extra_slots_ -= job.width - 1;
  const auto devices = devices_.find(lease);
  if (devices == devices_.end()) return;
  for (const std::uint32_t device : devices->second) device_taken_[device] = false;
  devices_.erase(devices);
}

std::size_t ExecutorLoad::tasks() const {
  return std::accumulate(by_kind_.begin(), by_kind_.end(), std::size_t{0});
}

void ExecutorLoad::check(const HeldJobs& jobs) const {
  std::array<std::size_t, kKinds> by_kind{};
  std::size_t demanding = 0;
  std::size_t extra_slots = 0;
  std::size_t devices = 0;
  for (const auto& [name, job] : jobs) {
    job->leases.for_each([&, held = job.get()](TaskSequence, const HeldLease& lease) {
      if (!lease.in_executor()) return;
      ++by_kind[kind_of(*held)];
      if (!held->demanding) return;
      ++demanding;
      extra_slots += held->width - 1;
      devices += held->gpus;
    });
  }
  CHECK(by_kind == by_kind_);
  CHECK(demanding == demanding_);
  CHECK(extra_slots == extra_slots_);
  CHECK(devices ==
        static_cast<std::size_t>(std::count(device_taken_.begin(), device_taken_.end(), true)));
  CHECK(demanding_ == 0 || extra_slots_ < slots_);
  CHECK(stuck_ <= slots_);
}

void learn(HeldJob& job, const TaskFinish& task) {
  if (task.outcome.status != OutcomeStatus::result && task.outcome.status != OutcomeStatus::error) {
    return;
  }
  if (!job.mean_known) {
    job.mean = task.busy;
    job.mean_known = true;
  } else {
    job.mean += (task.busy - job.mean) / (1 << kMeanShift);
  }
}

}  // namespace muster
