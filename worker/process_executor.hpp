// Runs native functions in child processes, one runner per slot: a crash costs one task, a task
// that times out or is cancelled is killed.
//
// Everything happens on the loop's thread. Runners start with the executor (warm) and die with it.
// A runner gets a short chunk of tasks at a time and writes each outcome before it starts the next
// task, so after a crash the first task without outcome is the one that crashed.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/limits.hpp"
#include "worker/executor.hpp"
#include "worker/frame_link.hpp"
#include "worker/spawn.hpp"

namespace muster {

struct ProcessExecutorOptions {
  std::uint32_t slots = 1;
  std::vector<std::string> plugins;
  std::string runner;  // the path of muster-runner
  std::uint64_t max_result_bytes = limits::kMaxPayloadBytes;
};

// muster-runner in the folder of this program.
std::string runner_beside_daemon();

class ProcessExecutor final : public Executor {
 public:
  explicit ProcessExecutor(ProcessExecutorOptions options);
  ~ProcessExecutor() override;
  ProcessExecutor(const ProcessExecutor&) = delete;
  ProcessExecutor& operator=(const ProcessExecutor&) = delete;

  void start(std::vector<TaskStart>&& tasks) override;
  void stop(const std::vector<Lease>& leases) override;
  void recall(const std::vector<Lease>& leases) override;
  Results poll(Time now) override;
  int wake_descriptor() const override { return epoll_.get(); }
  void shutdown() override;

 private:
  struct Runner {
    Spawned process;  // pid -1: none
    Descriptor link;
    Descriptor error_output;
    MessageReader reader;
    std::string unsent;                        // bytes that the socket did not take yet
    std::string error_tail;                    // what it wrote to standard error lately
    std::deque<TaskStart> tasks;               // handed to it, without outcome; the first one runs
    std::deque<TaskStart> returned;            // given back by it, until it said that it was all
    std::shared_ptr<const JobSpec> last_spec;  // the job that it knows
    SessionId last_session;
    JobId last_job{};
    Time task_started{};  // when the first of `tasks` started
    Time start_after{};   // back-off
    std::uint32_t failed_starts = 0;
    std::uint32_t idle_deaths = 0;                 // ends between tasks since the last outcome
    bool ready = false;                            // it has said so
    bool wants_write = false;                      // the epoll set waits for room in the socket
    bool taking_back = false;                      // it was asked to return what it has not started
    OutcomeStatus ending = OutcomeStatus::result;  // timed_out or cancelled: it was killed
  };
  // When a task takes this long, what stands behind it in its runner goes to others, and nothing
  // more is put there.
  static constexpr Duration kSlowTask = std::chrono::milliseconds(2);

  enum class Source : std::uint8_t { exit = 0, link = 1, error_output = 2 };

  void launch(Runner& runner, std::size_t slot, Time now);
  void watch(int descriptor, std::size_t slot, Source source);
  void take_event(std::uint64_t tag, Time now);
  void read_link(Runner& runner, Time now);
  void receive(Runner& runner, Message& message, Time now);
  void take_outcome(Runner& runner, message::WorkerOutcomes& report_of, Time now);
  void take_returned(Runner& runner, const message::Returned& returned);
  static void read_error_output(Runner& runner);
  void give_chunks(Time now);
  void give_chunk(Runner& runner, std::size_t count, Time now);
  static void declare(Runner& runner, const TaskStart& task);
  void flush(Runner& runner, std::size_t slot);
  void take_back(Runner& runner, std::size_t slot);
  static void kill(Runner& runner, OutcomeStatus status);
  void requeue(std::deque<TaskStart>& tasks);
  void check_deadline(Runner& runner, std::size_t slot, Time now);
  void finish_exit(Runner& runner, Time now);
  static void pause(Runner& runner, std::uint32_t ends, Time now);
  void fail_start(Runner& runner, const std::string& reason, Time now);
  void report(const Lease& lease, OutcomeStatus status, Failure failure, Duration busy);

  ProcessExecutorOptions options_;
  Descriptor epoll_;
  Descriptor null_input_;
  std::vector<Runner> runners_;
  std::deque<TaskStart> queue_;
  Duration mean_{};                     // of a task's busy time; zero: not known
  std::unordered_set<Lease> stopped_;   // inside a runner, to end as cancelled
  std::unordered_set<Lease> recalled_;  // inside a runner, to be handed back if not started
  std::string start_failure_;
  Results results_;
};

}  // namespace muster
