// How a command ends: what it wrote, its output files, and the outcome that these make.
#include <fmt/format.h>
#include <signal.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "worker/executors/command_executor.hpp"

namespace muster {
namespace {

// Of output files at a time, where they have to be copied: a few milliseconds.
constexpr std::uint64_t kCopyBytes = std::uint64_t{8} << 20;

Bytes own(std::string&& text) {
  const auto owner = std::make_shared<const std::string>(std::move(text));
  return {owner, std::as_bytes(std::span(owner->data(), owner->size()))};
}

}  // namespace

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
  for (Capture* capture : {&child.output, &child.error_output}) {
    int waiting_bytes = 0;  // that it wrote; what others write from now on is not its output
    ::ioctl(capture->pipe.get(), FIONREAD, &waiting_bytes);
    read_pipe(child, *capture, static_cast<std::size_t>(std::max(waiting_bytes, 0)));
    capture->pipe.reset();
  }
  child.busy = now - child.started;
  CommandResult result = result_of(child, *status);
  if (child.files != nullptr && child.ending == OutcomeStatus::result && status->status == 0) {
    child.deadline = kNever;
    child.memory.end();
    child.collecting = std::move(result);
    collect(child);
  } else {
    free(child, outcome_of(child, std::move(result)));
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
  result.output = own(std::move(child.output.text));
  result.error_output = own(std::move(child.error_output.text));
  result.truncated = child.output.truncated || child.error_output.truncated;
  result.started_unix_us = child.started_unix_us;
  result.runtime_us = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(child.busy).count());
  result.node = options_.node;
  return result;
}

// Of a command that has no output files, or does not deliver them.
Outcome CommandExecutor::outcome_of(Child& child, CommandResult&& result) const {
  const std::string tail = last_lines(result.error_output.text());
  switch (child.ending) {
    case OutcomeStatus::cancelled:
      return failed(OutcomeStatus::cancelled, {"cancelled", "cancelled while it ran", tail, {}});
    case OutcomeStatus::timed_out:
      return failed(OutcomeStatus::timed_out,
                    {"timed_out",
                     fmt::format("the command ran longer than its timeout of {} ms and was ended",
                                 child.task.spec->timeout.count()),
                     tail, encode_command_result(result)});
    case OutcomeStatus::error:
    case OutcomeStatus::lost: {
      Failure failure = child.memory.failure("the command");
      failure.traceback = tail;
      return failed(OutcomeStatus::error, failure);
    }
    case OutcomeStatus::result:
      break;
  }
  if (result.exit_status == 0) return success_of(child, result, {});
  const ExitStatus status{result.exit_status, result.signal};
  const std::string text =
      status.signal == 0 ? fmt::format("exit status {}", status.status) : describe(status);
  return failed(OutcomeStatus::error, {"exit", text, tail, encode_command_result(result)});
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

}  // namespace muster
