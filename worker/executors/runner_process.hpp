// One runner as the daemon sees it: a child process, started again when it ended, its link, and
// what it prints.
//
// Owned by an executor, on the loop's thread. Knows jobs, not tasks: which tasks the runner has,
// and what becomes of them, is the executor's matter.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "worker/agent/executor.hpp"
#include "worker/executors/store_relay.hpp"
#include "worker/runner/frame_link.hpp"
#include "worker/runner/output_gate.hpp"
#include "worker/system/spawn.hpp"
#include "worker/system/watch_set.hpp"

namespace muster {

// How runners are started. Descriptor 3 is their link.
struct RunnerCommand {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> environment;  // added to our own
  StoreRelay* stores = nullptr;  // who carries what they ask of stores; outlives them
};

class RunnerProcess {
 public:
  // What an event of the set is about.
  enum class Source : std::uint32_t { exit, link, output, error_output };
  static Source source_of(WatchSet::Name name) { return static_cast<Source>(name.source); }

  // Both outlive it. `slot` marks its events.
  RunnerProcess(const RunnerCommand& command, WatchSet& watches, std::uint32_t slot);
  // Kills the process and whatever it left behind.
  ~RunnerProcess();
  RunnerProcess(const RunnerProcess&) = delete;
  RunnerProcess& operator=(const RunnerProcess&) = delete;

  // --- Life
  bool running() const { return life_.process >= 0; }
  // It is dead and not taken note of: only then is `take_end` called.
  bool ended() const { return running() && has_ended(life_.process); }
  bool ready() const { return life_.ready; }
  bool killed() const { return life_.killed; }
  // Not before this time, after it ended of itself.
  Time start_after() const { return start_after_; }
  // It has failed to start again and again: `start_failure` says why. One that found no descriptors
  // or processes for a while is not hopeless: its tasks wait.
  bool hopeless() const { return !life_.ready && failed_starts_ >= kFailedStarts; }
  const std::string& start_failure() const { return start_failure_; }
  void launch(Time now);
  void kill();
  pid_t process() const { return life_.process; }
  // What the next one started finds as CUDA_VISIBLE_DEVICES. Never called: what the worker has.
  void set_devices(const std::string& devices) { devices_ = devices; }
  const std::optional<std::string>& devices() const { return devices_; }
  // Takes note of its end, after its last messages were read. Precondition: `ended()`. `idle`: it
  // had no task.
  struct End {
    ExitStatus status;
    std::string last_lines;  // that it printed
  };
  End take_end(bool idle, Time now);

  // --- Link
  bool takes_tasks() const { return life_.ready && !life_.killed && life_.link; }
  // Sent with the next `flush`; a task's job goes ahead of it, once.
  void hand(const TaskStart& task);
  void send(const Message& message);
  void forget(const JobName& job);
  void flush();
  // The next message of the runner, if there is one.
  bool next(Message& message);

  // --- What it prints, and says over the link
  // Reads what came. It belongs to the speaker; null: to no task.
  void read_output(const TaskStart* speaker, Time now);
  // The same, and the speaker says no more.
  void end_output(const TaskStart& speaker, Time now);
  // A first task starts: what was printed before does not belong to it.
  void clear_tail(Time now);
  // Moves what is due to the results.
  void take_output(Executor::Results& results, Time now);

 private:
  static constexpr std::uint32_t kFailedStarts = 3;

  struct Stream {
    Watched pipe;
    OutputKind kind;
    std::string line;  // its beginning
  };
  struct Life {
    pid_t process = -1;  // -1: none
    Watched exit;
    Watched link;
    Stream output{{}, OutputKind::output, {}};
    Stream error_output{{}, OutputKind::error, {}};
    MessageReader reader;
    std::string unsent;    // bytes that the socket did not take yet
    message::Tasks batch;  // the last part of `unsent`, not packed yet
    std::string tail;      // what it printed lately
    std::unordered_map<JobName, std::shared_ptr<const JobSpec>> jobs;  // that it knows
    const JobSpec* last_spec = nullptr;                                // one of them
    StoreRelay::Runner store_runner = 0;
    bool read_all = false;     // nothing waits in the socket
    bool ready = false;        // it has said so
    bool killed = false;       // by us
    bool wants_write = false;  // the set waits for room in the socket
  };

  bool watch(Watched& watched, Source source);
  void pause(std::uint32_t ends, Time now);
  void fail_start(const std::string& reason, Time now);
  void fail_for_room(const std::string& reason, Time now);
  void declare(const TaskStart& task);
  void pack_batch();
  void close_link();
  void join_stores();
  void leave_stores();
  void read_stream(Stream& stream, const TaskStart* speaker, Time now);
  void split_lines(Stream& stream, std::string_view text, const TaskStart& speaker, Time now);
  void end_line(Stream& stream, const TaskStart& speaker, Time now);

  const RunnerCommand& command_;
  WatchSet& watches_;
  const std::uint32_t slot_;
  Life life_;
  std::optional<std::string> devices_;
  OutputGate gate_;
  bool output_due_ = false;
  std::string start_failure_;
  Time start_after_{};
  Time without_room_ = kNever;  // since then every start found no descriptors or processes
  std::uint32_t failed_starts_ = 0;
  std::uint32_t idle_deaths_ = 0;  // ends between tasks since the last message
};

// The failure of a task whose process ended under it. `sharers`: tasks that the process ran.
Failure crash_failure(const TaskStart& task, const RunnerProcess::End& end, std::size_t sharers);

}  // namespace muster
