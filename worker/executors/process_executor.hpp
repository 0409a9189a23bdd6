// Runs functions in child processes, one runner per slot: a crash costs one task, a task that times
// out or is cancelled is killed.
//
// Everything happens on the loop's thread. Runners start with the executor (warm) or with the first
// task, and die with it. A runner gets a short chunk of tasks at a time and writes each outcome
// before it starts the next task, so after a crash the first task without outcome is the one that
// crashed. What a runner prints is said by the task that runs then; tasks that take less than a
// millisecond may be taken for their neighbours.
//
// On a worker with accelerators a runner sees exactly those of its task, and none when the task
// asked for none: a library reads CUDA_VISIBLE_DEVICES once, so a runner with others is started
// anew.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_set>
#include <vector>

#include "worker/agent/executor.hpp"
#include "worker/executors/runner_process.hpp"
#include "worker/system/memory_watch.hpp"

namespace muster {

struct ProcessExecutorOptions {
  std::uint32_t slots = 1;
  RunnerCommand runner;
  bool warm = true;                    // runners start at once: the first tasks find them ready
  std::vector<std::string> gpus = {};  // as CUDA_VISIBLE_DEVICES names them
  MemoryRule memory = {};
};

class ProcessExecutor final : public Executor {
 public:
  explicit ProcessExecutor(ProcessExecutorOptions options);
  ~ProcessExecutor() override;
  ProcessExecutor(const ProcessExecutor&) = delete;
  ProcessExecutor& operator=(const ProcessExecutor&) = delete;

  void start(std::vector<TaskStart>&& tasks) override;
  void stop(const std::vector<Lease>& leases) override;
  void recall(const std::vector<Lease>& leases) override;
  void forget(const std::vector<JobName>& jobs) override;
  Results poll(Time now) override;
  int wake_descriptor() const override { return watches_.descriptor(); }

 private:
  struct Slot {
    Slot(const RunnerCommand& command, WatchSet& watches, std::uint32_t number)
        : runner(command, watches, number) {}
    const TaskStart* running() const { return tasks.empty() ? nullptr : &tasks.front(); }

    RunnerProcess runner;
    std::deque<TaskStart> tasks;     // handed to it, without outcome; the first one runs
    std::deque<TaskStart> returned;  // given back by it, until it said that it was all
    Time task_started{};             // when the first of `tasks` started
    bool taking_back = false;        // it was asked to return what it has not started
    // timed_out, cancelled or (beyond its memory) error: it was killed …
    OutcomeStatus ending = OutcomeStatus::result;
    Lease ending_lease;  // … because of this one, which ran then
    MemoryWatch memory;  // of the task that runs
  };
  // When a task takes this long, what stands behind it in its runner goes to others, and nothing
  // more is put there.
  static constexpr Duration kSlowTask = std::chrono::milliseconds(2);

  void take_event(WatchSet::Name name, Time now);
  void read_link(Slot& slot, Time now);
  void take_outcome(Slot& slot, message::WorkerOutcomes& report_of, Time now);
  void take_returned(Slot& slot, const message::Returned& returned);
  void give_chunks(Time now);
  void give_chunk(Slot& slot, std::size_t count, Time now);
  bool takes_more(const Slot& slot, std::size_t depth, Time now) const;
  void make_room_for_devices();
  std::string devices_of(const TaskStart& task) const;
  void task_starts(Slot& slot, Time now);
  static void take_back(Slot& slot);
  static void kill(Slot& slot, OutcomeStatus status);
  void requeue(std::deque<TaskStart>& tasks);
  void check_deadline(Slot& slot, Time now);
  void finish_exit(Slot& slot, Time now);
  void report(const Lease& lease, OutcomeStatus status, const Failure& failure, Duration busy);

  const ProcessExecutorOptions options_;
  bool awake_;  // runners are wanted
  WatchSet watches_;
  std::deque<Slot> slots_;  // never moved
  std::deque<TaskStart> queue_;
  Duration mean_{};                     // of a task's busy time; zero: not known
  std::unordered_set<Lease> stopped_;   // inside a runner, to end as cancelled
  std::unordered_set<Lease> recalled_;  // inside a runner, to be handed back if not started
  Results results_;
};

}  // namespace muster
