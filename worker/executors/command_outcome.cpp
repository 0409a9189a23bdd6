#include "worker/executors/command_outcome.hpp"

#include <fmt/format.h>

#include <memory>
#include <span>
#include <utility>

#include "common/system/process_end.hpp"
#include "worker/system/spawn.hpp"

namespace muster {

Bytes bytes_of(std::string&& text) {
  const auto owner = std::make_shared<const std::string>(std::move(text));
  return {owner, std::as_bytes(std::span(owner->data(), owner->size()))};
}

bool has_succeeded(const CommandEnding& ending, const CommandResult& result) {
  return ending.why == OutcomeStatus::result && result.exit_status == 0;
}

Outcome failure_of(const CommandEnding& ending, const CommandResult& result) {
  const std::string tail = last_lines(result.error_output.text());
  switch (ending.why) {
    case OutcomeStatus::cancelled:
      return failed(OutcomeStatus::cancelled, {"cancelled", "cancelled while it ran", tail, {}});
    case OutcomeStatus::timed_out:
      return failed(OutcomeStatus::timed_out,
                    {"timed_out",
                     fmt::format("the command ran longer than its timeout of {} ms and was ended",
                                 ending.timeout.count()),
                     tail, encode_command_result(result)});
    case OutcomeStatus::error:
    case OutcomeStatus::lost: {
      Failure failure = ending.memory->failure("the command");
      failure.traceback = tail;
      return failed(OutcomeStatus::error, failure);
    }
    case OutcomeStatus::result:
      break;
  }
  const ExitStatus status{result.exit_status, result.signal};
  const std::string text =
      status.signal == 0 ? fmt::format("exit status {}", status.status) : describe(status);
  return failed(OutcomeStatus::error, {"exit", text, tail, encode_command_result(result)});
}

}  // namespace muster
