// Runs command tasks: each a child process with its own session, its output captured.
//
// Everything happens on the loop's thread: children are watched through one set and never waited
// for. Commands die with the daemon. When descriptors or processes run out, commands wait until one
// of the others ends, or for a moment.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/protocol/codec.hpp"
#include "worker/agent/executor.hpp"
#include "worker/blobs/task_blobs.hpp"
#include "worker/executors/command_files.hpp"
#include "worker/executors/command_outcome.hpp"
#include "worker/executors/output_capture.hpp"
#include "worker/system/memory_watch.hpp"
#include "worker/system/spawn.hpp"
#include "worker/system/watch_set.hpp"

namespace muster {

struct CommandExecutorOptions {
  std::uint32_t slots = 1;
  std::string node;  // said in every result
  // Captured per stream unless the task names a limit; the rest is read and dropped.
  std::uint64_t output_limit_bytes = std::uint64_t{64} << 20;
  // Between SIGTERM and SIGKILL, for a command that timed out or was cancelled.
  Duration grace = std::chrono::seconds(2);
  std::vector<std::string> gpus = {};  // as CUDA_VISIBLE_DEVICES names them
  MemoryRule memory = {};
};

class CommandExecutor final : public Executor {
 public:
  explicit CommandExecutor(CommandExecutorOptions options);
  ~CommandExecutor() override;
  CommandExecutor(const CommandExecutor&) = delete;
  CommandExecutor& operator=(const CommandExecutor&) = delete;

  // How many commands may run at once from now on, at most the options' slots.
  void set_slots(std::uint32_t slots) { usable_slots_ = slots; }

  void start(std::vector<TaskStart>&& tasks) override;
  void stop(const std::vector<Lease>& leases) override;
  void recall(const std::vector<Lease>& leases) override;
  void forget(const std::vector<JobName>&) override {}
  Results poll(Time now) override;
  int wake_descriptor() const override { return watches_.descriptor(); }

 private:
  struct Child {
    TaskStart task;
    pid_t process = -1;  // -1: the slot is free
    Watched exit;
    OutputCapture output;
    OutputCapture error_output;
    std::uint64_t started_unix_us = 0;
    Time started{};
    Time deadline = kNever;  // its timeout, or the end of its grace once it is being ended
    // timed_out or cancelled: SIGTERM was sent; error: killed, it took too much memory.
    OutcomeStatus ending = OutcomeStatus::result;
    MemoryWatch memory;
    bool watched = false;                 // its pipes are in the set, too
    bool blind = false;                   // the set had no room: it is looked at every few ms
    std::unique_ptr<CommandFiles> files;  // null: it has none
    // It ended well, and its output files are being taken: the slot is not free yet.
    std::optional<CommandResult> collecting;
    Duration busy{};

    bool is_free() const { return process < 0 && !collecting; }
  };

  enum class Source : std::uint32_t { exit, output, error_output };
  // `later`: there is no room for it just now, and nothing was done.
  enum class Launch : std::uint8_t { started, failed, later };

  void fill_slots(Time now);
  void wait_for_room(Time now);
  Launch launch(std::size_t slot, TaskStart& task, Time now);
  bool prepare(Child& child, CommandTask& command, const TaskStart& task, Time now);
  void name_devices(const TaskStart& task, CommandTask& command) const;
  void take_event(WatchSet::Name name, Time now);
  void watch(Child& child, Watched& watched, Source source);
  void watch_pipes(Child& child);
  void look_blindly(Child& child, Time now);
  void end(Child& child, OutcomeStatus status, Time now);
  void check_deadline(Child& child, Time now);
  void finish(Child& child, Time now);
  void collect(Child& child);
  void free(Child& child, Outcome&& outcome);
  CommandResult result_of(Child& child, ExitStatus status) const;
  static CommandEnding ending_of(const Child& child);
  Outcome outcome_of(const Child& child, const CommandResult& result) const;
  Outcome success_of(const Child& child, const CommandResult& result,
                     const std::vector<Blob>& outputs) const;
  void report(const Lease& lease, OutcomeStatus status, const Failure& failure);

  CommandExecutorOptions options_;
  TaskBlobs blobs_{BlobHome::from_environment()};
  std::uint32_t usable_slots_;
  WatchSet watches_;
  Descriptor null_input_;
  std::vector<Child> children_;  // one per slot
  std::uint32_t running_ = 0;
  std::deque<TaskStart> queue_;
  Time retry_at_{};             // nothing is started before, unless a command ends
  Time without_room_ = kNever;  // since then no command could be started
  Results results_;
};

}  // namespace muster
