// Runs functions on the threads of one child process: tasks share its modules and its data, and a
// crash ends all that run.
//
// Everything happens on the loop's thread. The runner starts with the executor and dies with it. It
// gets at most as many unfinished tasks as it has threads, so each starts at once. A task that
// timed out or was cancelled is reported at once; the runner is asked to end it, and its slot is
// stuck until it does.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "worker/agent/executor.hpp"
#include "worker/blobs/task_blobs.hpp"
#include "worker/executors/runner_process.hpp"

namespace muster {

struct SharedRunnerExecutorOptions {
  std::uint32_t slots = 1;
  RunnerCommand runner;  // with as many threads as slots
};

class SharedRunnerExecutor final : public Executor {
 public:
  explicit SharedRunnerExecutor(SharedRunnerExecutorOptions options);
  SharedRunnerExecutor(const SharedRunnerExecutor&) = delete;
  SharedRunnerExecutor& operator=(const SharedRunnerExecutor&) = delete;

  void start(std::vector<TaskStart>&& tasks) override;
  void stop(const std::vector<Lease>& leases) override;
  void recall(const std::vector<Lease>& leases) override;
  void forget(const std::vector<JobName>& jobs) override;
  Results poll(Time now) override;
  int wake_descriptor() const override { return watches_.descriptor(); }

 private:
  struct Running {
    TaskStart task;
    Time started{};
    bool reported = false;  // it ended for everybody else
  };

  void take_events(Time now);
  void give(Time now);
  void read_link(Time now);
  void take_outcome(message::WorkerOutcomes& report_of, Time now);
  void check_deadlines(Time now);
  void end_early(Running& running, OutcomeStatus status, const std::string& reason, Time now);
  void finish_exit(Time now);
  // Whose the output is: of the task that started last.
  const TaskStart* speaker() const { return running_.empty() ? nullptr : &running_.back().task; }

  const SharedRunnerExecutorOptions options_;
  const BlobHome home_ = BlobHome::from_environment();
  WatchSet watches_;
  RunnerProcess runner_;
  std::deque<TaskStart> queue_;
  std::deque<Running> running_;  // in the order of their starts
  Results results_;
};

}  // namespace muster
