// What the executor has to do: its tasks, the slots and accelerators that they take, and how much
// more it may get. Owned by the agent's books. Pure; one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "worker/agent/held_job.hpp"

namespace muster {

class ExecutorLoad {
 public:
  // `start_window`: AgentOptions.
  ExecutorLoad(std::uint32_t slots, std::uint32_t gpus, Duration start_window);

  // So many slots are of no use for now. False: as before.
  bool set_stuck(std::uint32_t slots);
  std::uint32_t stuck() const { return stuck_; }

  // Whether the next task may go to the executor when it is of this job.
  bool may_start(const HeldJob& job) const;
  // A task goes there; returns the accelerators that are its own.
  std::vector<std::uint32_t> start(const HeldJob& job, const Lease& lease);
  // The executor has let go of it.
  void end(const HeldJob& job, const Lease& lease);

  std::size_t tasks() const;
  // Whether every slot has work.
  bool is_busy() const { return tasks() + extra_slots_ >= slots_; }

  // CHECKs that it agrees with the states of all leases. Slow: tests only.
  void check(const HeldJobs& jobs) const;

 private:
  static constexpr std::size_t kKinds = 3;
  static std::size_t kind_of(const HeldJob& job) {
    return static_cast<std::size_t>(job.spec->function.kind);
  }
  std::uint64_t allowance(const HeldJob& job) const;

  const std::uint32_t slots_;
  const std::uint32_t gpus_;
  const Duration start_window_;
  std::uint32_t stuck_ = 0;
  std::array<std::size_t, kKinds> by_kind_{};  // tasks, by function kind
  // Of these tasks: those that ask for more than a slot, and what they take of slots beyond the
  // first.
  std::size_t demanding_ = 0;
  std::size_t extra_slots_ = 0;
  std::vector<bool> device_taken_;  // by accelerator
  std::unordered_map<Lease, std::vector<std::uint32_t>> devices_;
};

// The job's mean takes in how long this task was busy.
void learn(HeldJob& job, const TaskFinish& task);

}  // namespace muster
