// The outcome that the end of a command makes. Plain functions; any thread.
#pragma once

#include <chrono>
#include <string>

#include "common/protocol/codec.hpp"
#include "worker/system/memory_watch.hpp"

namespace muster {

// Takes over the text without a copy.
Bytes bytes_of(std::string&& text);

// How a command ended that was not to go on.
struct CommandEnding {
  OutcomeStatus why = OutcomeStatus::result;  // result: it ended by itself
  std::chrono::milliseconds timeout{};        // its own, of a task that timed out
  const MemoryWatch* memory = nullptr;        // error: it took too much
};

// Whether the command ended by itself, and well: its outcome is made of its result and output
// files.
bool has_succeeded(const CommandEnding& ending, const CommandResult& result);
// Otherwise.
Outcome failure_of(const CommandEnding& ending, const CommandResult& result);

}  // namespace muster
