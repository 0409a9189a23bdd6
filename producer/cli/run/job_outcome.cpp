#include "producer/cli/run/job_outcome.hpp"

#include <fmt/format.h>

#include <csignal>
#include <optional>

#include "common/protocol/codec.hpp"

namespace muster {
namespace {

constexpr int kCannotStart = 127;  // as a shell: command not found
constexpr int kNoOutput = 1;       // the command's own status was 0
constexpr double kMicrosecond = 1e-6;

void take(JobOutcome& outcome, const CommandResult& result) {
  outcome.exit_status = result.signal != 0 ? 0 : result.exit_status;
  outcome.signal = result.signal;
  outcome.output = result.output;
  outcome.error_output = result.error_output;
  outcome.truncated = result.truncated;
  outcome.host = result.node;
  outcome.start_seconds = static_cast<double>(result.started_unix_us) * kMicrosecond;
  outcome.runtime_seconds = static_cast<double>(result.runtime_us) * kMicrosecond;
  outcome.outputs = result.outputs;
}

void take_failure(JobOutcome& outcome, const Error& error, std::chrono::milliseconds timeout) {
  if (error.kind() == "exit") {
    const auto result = decode_command_result(error.extra());
    if (result) {
      take(outcome, *result);
      if (result->signal != 0) outcome.complaint = error.what();
      return;
    }
  }
  if (error.kind() == "missing_output") {
    if (const auto result = decode_command_result(error.extra())) take(outcome, *result);
    outcome.exit_status = kNoOutput;
    outcome.complaint = error.what();
    return;
  }
  outcome.exit_status = -1;
  outcome.complaint = error.what();
  if (error.kind() == "start_failed") {
    outcome.exit_status = kCannotStart;
  } else if (error.code() == ErrorCode::task_timed_out) {
    outcome.signal = SIGTERM;
    const double seconds = static_cast<double>(timeout.count()) / 1000;
    outcome.runtime_seconds = seconds;
    outcome.start_seconds -= seconds;
    outcome.complaint = fmt::format("killed: it ran longer than {} s", seconds);
    outcome.error_output = Bytes::copy(error.traceback());
    const auto result = decode_command_result(error.extra());
    if (!error.extra().empty() && result) {
      outcome.output = result->output;
      outcome.error_output = result->error_output;
      outcome.host = result->node;
    }
  }
}

}  // namespace

int JobOutcome::shell_status() const {
  if (exit_status < 0) return 255;
  if (signal != 0) return 128 + signal;
  return exit_status & 0xff;
}

JobOutcome read_outcome(const StreamItem& item, double now_seconds,
                        std::chrono::milliseconds timeout) {
  JobOutcome outcome;
  outcome.start_seconds = now_seconds;
  if (!item.error) {
    const auto result = decode_command_result(item.result);
    if (result) {
      take(outcome, *result);
    } else {
      outcome.exit_status = -1;
      outcome.complaint = "its result could not be read";
    }
    return outcome;
  }
  if (item.error->code() == ErrorCode::task_cancelled) {
    outcome.cancelled = true;
    return outcome;
  }
  take_failure(outcome, *item.error, timeout);
  return outcome;
}

std::string advice(const Error& error, const std::string& endpoint) {
  std::string what = error.what();
  const std::string broker = endpoint.empty() ? "the embedded broker" : "the broker at " + endpoint;
  switch (error.code()) {
    case ErrorCode::no_worker:
      return fmt::format("{}: no worker can run this; start one: muster-worker --connect {} ({})",
                         broker, endpoint.empty() ? "ENDPOINT" : endpoint, what);
    case ErrorCode::refused:
      if (error.kind() != "version") return fmt::format("{}: {}", broker, what);
      return fmt::format(
          "{} refused this program: install the same version of Muster on both "
          "sides ({})",
          broker, what);
    case ErrorCode::unusable:
      return fmt::format("cannot use {}: {}", endpoint.empty() ? "an embedded pool" : endpoint,
                         what);
    case ErrorCode::wait_timed_out:
      return fmt::format("{} did not answer in time: is it overloaded? ({})", broker, what);
    case ErrorCode::disconnected:
    case ErrorCode::invalid:
    case ErrorCode::out_of_space:
    case ErrorCode::task_failed:
    case ErrorCode::task_timed_out:
    case ErrorCode::task_cancelled:
    case ErrorCode::task_lost:
      return what;
  }
  return what;
}

}  // namespace muster
