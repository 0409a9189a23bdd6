// Runs native functions on threads of this process: the fastest executor, and no isolation. A task
// that crashes ends the daemon; one that does not return keeps its slot. Libraries that a job
// brought are loaded into this process, too.
//
// Threads: calls come from the loop's thread; the slots' threads are private.
#pragma once

#include <cstdint>
#include <memory>

#include "worker/agent/executor.hpp"
#include "worker/runner/plugin.hpp"

namespace muster {

class ThreadExecutor final : public Executor {
 public:
  // `functions` outlives every task, also one that never returns.
  ThreadExecutor(const FunctionRegistry& functions, std::uint32_t slots);
  // Waits a moment for running tasks to notice `stop_requested`; leaves those that do not.
  ~ThreadExecutor() override;
  ThreadExecutor(const ThreadExecutor&) = delete;
  ThreadExecutor& operator=(const ThreadExecutor&) = delete;

  void start(std::vector<TaskStart>&& tasks) override;
  void stop(const std::vector<Lease>& leases) override;
  void recall(const std::vector<Lease>& leases) override;
  void forget(const std::vector<JobName>& jobs) override;
  Results poll(Time now) override;
  int wake_descriptor() const override;

 private:
  struct Window;
  struct Slot;
  struct State;
  std::shared_ptr<State> state_;  // shared with the threads: a stuck one may outlive the executor
};

}  // namespace muster
