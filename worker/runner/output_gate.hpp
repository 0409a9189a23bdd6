// What tasks say, gathered into messages: at most so many lines from one process, each at most
// limits::kMaxLineBytes long. What is too much is left out and counted.
//
// Owned by the reader of a process's output: its runner link, or the daemon. Pure; one thread.
#pragma once

#include <string>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class OutputGate {
 public:
  // What a person still reads, and 16 runners do not drown a producer with; a traceback or a table
  // at once does not justify leaving lines out.
  static constexpr std::int64_t kLinesPerSecond = 1000;
  static constexpr std::int64_t kBurstLines = 5000;

  void add(const SessionId& session, JobId job, message::OutputLine&& line, Time now);

  bool empty() const { return waiting_.empty(); }
  // When the oldest line came that waits; kNever: none.
  Time since() const { return waiting_.empty() ? kNever : since_; }
  // A whole message waits: time to take it.
  bool full() const { return waiting_.size() > 1 || lines_ >= limits::kMaxOutputLines; }
  // What waits, in order; each message within the limits.
  std::vector<message::WorkerOutput> take();

 private:
  message::WorkerOutput& batch_of(const SessionId& session, JobId job, Time now);

  std::vector<message::WorkerOutput> waiting_;
  std::size_t lines_ = 0;  // in the last of them
  Time since_{};
  Time spent_until_{};  // each line spends a slice of time; a burst may run ahead of the clock
};

// The text cut to a size, not within a UTF-8 character.
void cut_text(std::string& text, std::size_t limit_bytes);

}  // namespace muster
