// How a task ended, as the application sees it. Part of the producer's public face.
#pragma once

#include <cstdint>
#include <muster/bytes.hpp>
#include <stdexcept>
#include <string>

namespace muster {

// What went wrong, by what the caller can do next.
enum class ErrorCode {
  invalid,         // the call itself is wrong: correct the program
  task_failed,     // the task raised, crashed or exited with an error: see kind and traceback
  task_timed_out,  // the task ran longer than JobOptions::timeout
  task_cancelled,  // the job or task was cancelled
  task_lost,       // every worker that ran it was lost (crash budget spent)
  no_worker,       // no connected worker can run it
  disconnected,    // the broker did not answer for Options::broker_timeout
  refused,         // the broker refused this program; kind "version": install the same as there
  wait_timed_out,  // the result did not arrive within the time the caller gave; it may still come
  unusable,        // the embedded pool could not be started, or the endpoint is not valid
  out_of_space,    // no room for a blob: let go of handles, or give the pool more memory or disk
};

// Thrown by every blocking call of the producer library.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string kind, const std::string& message, std::string traceback = "",
        Bytes extra = {})
      : std::runtime_error(message),
        code_(code),
        kind_(std::move(kind)),
        traceback_(std::move(traceback)),
        extra_(std::move(extra)) {}

  ErrorCode code() const { return code_; }
  // A short stable word from where it happened: "exception", "crashed", "exit", "bad_arguments", …
  const std::string& kind() const { return kind_; }
  // The remote traceback, or the last lines of standard error; may be empty.
  const std::string& traceback() const { return traceback_; }
  // Kind-specific bytes: for kind "exit" a packed CommandResult.
  const Bytes& extra() const { return extra_; }

 private:
  ErrorCode code_;
  std::string kind_;
  std::string traceback_;
  Bytes extra_;
};

}  // namespace muster
