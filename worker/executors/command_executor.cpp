#include "worker/executors/command_executor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "common/system/descriptor_limit.hpp"
#include "worker/agent/waiting.hpp"
#include "worker/system/clock.hpp"
#include "worker/system/machine.hpp"

namespace muster {
namespace {

// Two streams and the rest of a result must fit into one payload.
constexpr std::uint64_t kMostOutputBytes = (limits::kMaxPayloadBytes - (std::size_t{1} << 20)) / 2;

// A command that ends within this time never has its pipes watched: what it wrote is read at its
// end, which saves the loop a wake-up. One that writes more than a pipe holds waits no longer.
constexpr Duration kWatchPipesAfter = std::chrono::milliseconds(2);

constexpr Duration kShutdownGrace = std::chrono::milliseconds(500);
// Of one pipe in one turn: a command that writes without end must not hold the loop.
constexpr std::size_t kBytesPerTurn = std::size_t{1} << 20;
// Of output files at a time, where they have to be copied: a few milliseconds.
constexpr std::uint64_t kCopyBytes = std::uint64_t{8} << 20;
constexpr Duration kLookPause = std::chrono::milliseconds(10);  // at what cannot be watched
// While descriptors or processes are used up, and for how long it is hoped when nothing runs here.
constexpr Duration kRetryPause = std::chrono::milliseconds(100);
constexpr Duration kRoomPatience = std::chrono::seconds(60);
constexpr const char* kNoRoom =
    "the worker has no descriptors, processes or memory left for a command; raise `ulimit -n` and "
    "`ulimit -u` where it starts (or LimitNOFILE and TasksMax of its service), or give it fewer "
    "slots";

// A descriptor to read `input` from: a file in memory, so that nobody has to feed a pipe.
Descriptor input_file(const Bytes& input) {
  Descriptor file(::memfd_create("muster-input", MFD_CLOEXEC));
  std::string_view rest = input.text();
  while (file && !rest.empty()) {
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written <= 0) return {};
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

}  // namespace

CommandExecutor::CommandExecutor(CommandExecutorOptions options)
    : options_(std::move(options)),
      usable_slots_(options_.slots),
      null_input_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      children_(options_.slots) {}

void CommandExecutor::start(std::vector<TaskStart>&& tasks) {
  for (TaskStart& task : tasks) queue_.push_back(std::move(task));
  tasks.clear();
  fill_slots(steady_now());
}

void CommandExecutor::fill_slots(Time now) {
  if (now < retry_at_) return;
  for (std::size_t slot = 0; slot < children_.size() && !queue_.empty(); ++slot) {
    while (!queue_.empty() && running_ < usable_slots_ && children_[slot].is_free()) {
      const Launch launched = launch(slot, queue_.front(), now);
      if (launched == Launch::later) {
        wait_for_room(now);
        return;
      }
      if (launched == Launch::started) without_room_ = kNever;
      queue_.pop_front();
    }
  }
}

void CommandExecutor::wait_for_room(Time now) {
  retry_at_ = now + kRetryPause;
  if (without_room_ == kNever) {
    without_room_ = now;
    spdlog::warn("commands wait: {}", kNoRoom);
  }
  if (running_ > 0 || now - without_room_ < kRoomPatience) return;
  without_room_ = now;
  report(queue_.front().lease, OutcomeStatus::error, {"start_failed", kNoRoom, "", {}});
  queue_.pop_front();
}

// Reads the payload and makes the folder of its files. False: it was reported what is wrong.
bool CommandExecutor::prepare(Child& child, CommandTask& command, const TaskStart& task, Time now) {
  auto opened = blobs_.unpack(task.payload, "payload", now);
  if (const auto* failure = std::get_if<Failure>(&opened)) {
    report(task.lease, OutcomeStatus::error, *failure);
    return false;
  }
  const auto& payload = std::get<OpenPayload>(opened);
  std::optional<CommandTask> decoded = decode_command_task(payload.body);
  if (!decoded || decoded->argv.empty()) {
    report(task.lease, OutcomeStatus::error,
           {"bad_arguments", "the payload is not a command with at least one word", "", {}});
    return false;
  }
  command = std::move(*decoded);
  if (command.inputs.empty() && command.outputs.empty()) return true;
  if (!command.outputs.empty() && task.spec->inline_results) {
    report(task.lease, OutcomeStatus::error,
           {"start_failed",
            "output files become blobs, and the program that asked for them does not share the "
            "broker's folders: run it where it sees them",
            "",
            {}});
    return false;
  }
  try {
    child.files = std::make_unique<CommandFiles>(blobs_, command, payload.blobs);
    command.directory = child.files->folder();
    return true;
  } catch (const CommandFileError& error) {
    report(task.lease, OutcomeStatus::error, {error.kind, error.what(), "", {}});
  } catch (const BlobError& error) {
    report(task.lease, OutcomeStatus::error, blob_failure(error));
  }
  return false;
}

CommandExecutor::Launch CommandExecutor::launch(std::size_t slot, TaskStart& task, Time now) {
  // First, and in this order: the last one shows how many descriptors are open.
  Pipe output = make_pipe();
  Pipe error_output = make_pipe();
  if (!output.read || !error_output.read) return Launch::later;
  if (running_ > 0 && is_near_descriptor_limit(error_output.write.get())) return Launch::later;
  Child made;
  CommandTask command;
  if (!prepare(made, command, task, now)) return Launch::failed;
  Descriptor input;
  if (!command.input.empty()) input = input_file(command.input);
  if (!command.input.empty() && !input) return Launch::later;
  name_devices(task, command);
  SpawnRequest request{std::move(command.argv),
                       std::move(command.environment),
                       std::move(command.directory),
                       input ? input.get() : null_input_.get(),
                       output.write.get(),
                       error_output.write.get(),
                       -1};
  Spawned process = spawn(request);
  if (process.exhausted) return Launch::later;
  if (!process.failure.empty()) {
    report(task.lease, OutcomeStatus::error, {"start_failed", std::move(process.failure), "", {}});
    return Launch::failed;
  }
  raise_oom_score(process.pid);
  Child& child = children_[slot];
  child = std::move(made);
  child.process = process.pid;
  const std::uint64_t memory_limit = options_.memory.limit_of(task.spec->resources);
  if (memory_limit > 0) child.memory.begin(child.process, memory_limit, now);
  const std::uint64_t asked = command.output_limit_bytes;
  const std::uint64_t limit_bytes =
      std::min(asked == 0 ? options_.output_limit_bytes : asked, kMostOutputBytes);
  child.output = OutputCapture(std::move(output.read), limit_bytes);
  child.error_output = OutputCapture(std::move(error_output.read), limit_bytes);
  child.exit = Watched(std::move(process.exit_watch));
  watch(child, child.exit, Source::exit);
  child.started_unix_us = wall_clock_us();
  child.started = now;
  if (task.spec->timeout.count() > 0) child.deadline = now + task.spec->timeout;
  task.payload = {};
  child.task = std::move(task);
  ++running_;
  return Launch::started;
}

// The accelerators that the task may use, unless it says itself.
void CommandExecutor::name_devices(const TaskStart& task, CommandTask& command) const {
  if (options_.gpus.empty()) return;
  const std::string name = "CUDA_VISIBLE_DEVICES";
  const bool said = std::any_of(command.environment.begin(), command.environment.end(),
                                [&](const auto& variable) { return variable.first == name; });
  if (!said) command.environment.emplace_back(name, join_gpus(options_.gpus, task.devices));
}

void CommandExecutor::report(const Lease& lease, OutcomeStatus status, const Failure& failure) {
  results_.finished.push_back({lease, failed(status, failure), Duration::zero()});
}

void CommandExecutor::stop(const std::vector<Lease>& leases) {
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  take_named(queue_, leases, [&](const TaskStart& task) {
    results_.finished.push_back({task.lease, cancelled_unstarted(), Duration::zero()});
  });
  for (Child& child : children_) {
    if (child.is_free() || named.count(child.task.lease) == 0) continue;
    if (child.collecting) {
      child.ending = OutcomeStatus::cancelled;
      free(child, outcome_of(child, *child.collecting));
    } else if (child.ending == OutcomeStatus::result) {
      end(child, OutcomeStatus::cancelled, steady_now());
    }
  }
}

void CommandExecutor::recall(const std::vector<Lease>& leases) {
  take_named(queue_, leases,
             [&](const TaskStart& task) { results_.handed_back.push_back(task.lease); });
}

void CommandExecutor::end(Child& child, OutcomeStatus status, Time now) {
  child.ending = status;
  child.deadline = now + options_.grace;
  ::kill(-child.process, SIGTERM);
  ::kill(-child.process, SIGCONT);  // a stopped process could not die
}

Executor::Results CommandExecutor::poll(Time now) {
  if (running_ > 0) {
    watches_.look();
    while (const auto name = watches_.next()) take_event(*name, now);
  }
  for (std::size_t slot = 0; slot < children_.size() && running_ > 0; ++slot) {
    Child& child = children_[slot];
    if (child.collecting) collect(child);
    if (child.process < 0) continue;
    check_deadline(child, now);
    if (!child.watched && now - child.started >= kWatchPipesAfter) watch_pipes(child);
    if (child.blind) look_blindly(child, now);
  }
  fill_slots(now);
  blobs_.tick(now);
  results_.next_poll = std::min(results_.next_poll, blobs_.next_deadline());
  if (!queue_.empty() && retry_at_ > now) {
    results_.next_poll = std::min(results_.next_poll, retry_at_);
  }
  for (std::size_t slot = 0; slot < children_.size() && running_ > 0; ++slot) {
    const Child& child = children_[slot];
    if (child.collecting) results_.next_poll = now;
    if (child.process < 0) continue;
    const Time watch = child.watched ? kNever : child.started + kWatchPipesAfter;
    const Time look = child.blind ? now + kLookPause : watch;
    const Time weigh = child.ending == OutcomeStatus::result ? child.memory.next_look() : kNever;
    results_.next_poll = std::min({results_.next_poll, child.deadline, look, weigh});
  }
  return std::exchange(results_, {});
}

void CommandExecutor::take_event(WatchSet::Name name, Time now) {
  Child& child = children_[name.slot];
  switch (static_cast<Source>(name.source)) {
    case Source::exit:
      finish(child, now);
      return;
    case Source::output:
      child.output.read(kBytesPerTurn);
      return;
    case Source::error_output:
      child.error_output.read(kBytesPerTurn);
      return;
  }
}

void CommandExecutor::watch(Child& child, Watched& watched, Source source) {
  const auto slot = static_cast<std::uint32_t>(&child - children_.data());
  child.blind |= !watches_.watch(watched, {slot, static_cast<std::uint32_t>(source)});
}

void CommandExecutor::watch_pipes(Child& child) {
  child.watched = true;
  watch(child, child.output.pipe(), Source::output);
  watch(child, child.error_output.pipe(), Source::error_output);
}

void CommandExecutor::look_blindly(Child& child, Time now) {
  child.output.read(kBytesPerTurn);
  child.error_output.read(kBytesPerTurn);
  finish(child, now);
}

void CommandExecutor::check_deadline(Child& child, Time now) {
  if (child.ending == OutcomeStatus::result && child.memory.exceeded(now)) {
    child.ending = OutcomeStatus::error;
    child.deadline = kNever;
    ::kill(-child.process, SIGKILL);  // now: it may grow on while it is asked
    return;
  }
  if (now < child.deadline) return;
  if (child.ending == OutcomeStatus::result) {
    end(child, OutcomeStatus::timed_out, now);
  } else {
    ::kill(-child.process, SIGKILL);
    child.deadline = kNever;
  }
}

// --- Ends ---------------------------------------------------------------------------------------

// Does nothing while it runs.
void CommandExecutor::finish(Child& child, Time now) {
  // Processes that it left behind keep running as under a shell, unless it was to be ended.
  if (child.ending != OutcomeStatus::result && has_ended(child.process)) {
    ::kill(-child.process, SIGKILL);
  }
  const std::optional<ExitStatus> status = reap(child.process);
  if (!status) return;
  child.process = -1;
  child.exit.reset();
  child.output.finish();
  child.error_output.finish();
  child.busy = now - child.started;
  CommandResult result = result_of(child, *status);
  if (child.files != nullptr && has_succeeded(ending_of(child), result)) {
    child.deadline = kNever;
    child.memory.end();
    child.collecting = std::move(result);
    collect(child);
  } else {
    free(child, outcome_of(child, result));
  }
}

void CommandExecutor::free(Child& child, Outcome&& outcome) {
  results_.finished.push_back({child.task.lease, std::move(outcome), child.busy});
  child = Child{};
  --running_;
  retry_at_ = {};
}

void CommandExecutor::collect(Child& child) {
  CommandResult& result = *child.collecting;
  try {
    if (!child.files->collect(kCopyBytes)) return;
    result.outputs = child.files->output_names();
    free(child, success_of(child, result, child.files->outputs()));
  } catch (const CommandFileError& error) {
    free(child, failed(OutcomeStatus::error,
                       {error.kind, error.what(), last_lines(result.error_output.text()),
                        encode_command_result(result)}));
  } catch (const BlobError& error) {
    Failure failure = blob_failure(error);
    failure.extra = encode_command_result(result);
    free(child, failed(OutcomeStatus::error, failure));
  }
}

CommandResult CommandExecutor::result_of(Child& child, ExitStatus status) const {
  CommandResult result;
  result.exit_status = status.status;
  result.signal = status.signal;
  result.output = bytes_of(child.output.take_text());
  result.error_output = bytes_of(child.error_output.take_text());
  result.truncated = child.output.truncated() || child.error_output.truncated();
  result.started_unix_us = child.started_unix_us;
  result.runtime_us = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(child.busy).count());
  result.node = options_.node;
  return result;
}

CommandEnding CommandExecutor::ending_of(const Child& child) {
  return {child.ending, child.task.spec->timeout, &child.memory};
}

// Of a command that has no output files, or does not deliver them.
Outcome CommandExecutor::outcome_of(const Child& child, const CommandResult& result) const {
  const CommandEnding ending = ending_of(child);
  return has_succeeded(ending, result) ? success_of(child, result, {}) : failure_of(ending, result);
}

Outcome CommandExecutor::success_of(const Child& child, const CommandResult& result,
                                    const std::vector<Blob>& outputs) const {
  try {
    return {OutcomeStatus::result, blobs_.payload_of(encode_command_result(result), outputs,
                                                     child.task.spec->inline_results)};
  } catch (const BlobError& error) {
    return failed(OutcomeStatus::error, blob_failure(error));
  }
}

CommandExecutor::~CommandExecutor() {
  queue_.clear();
  for (const Child& child : children_) {
    if (child.process < 0) continue;
    ::kill(-child.process, SIGTERM);
    ::kill(-child.process, SIGCONT);
  }
  const Time deadline = steady_now() + kShutdownGrace;
  for (Child& child : children_) {
    if (child.process < 0) continue;
    pollfd exit{child.exit.get(), POLLIN, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_now());
    ::poll(&exit, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    kill_group(child.process);
    child = Child{};
    --running_;
  }
}

}  // namespace muster
