// What a command writes to one of its streams, as far as it is kept. Owned by the command's
// executor; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "worker/system/watch_set.hpp"

namespace muster {

class OutputCapture {
 public:
  OutputCapture() = default;
  // `pipe`: its reading end, which does not block. What exceeds the limit is read and dropped.
  OutputCapture(Descriptor&& pipe, std::uint64_t limit_bytes)
      : pipe_(std::move(pipe)), limit_bytes_(limit_bytes) {}

  // Reads what is there, at most so much; closes the pipe at its end.
  void read(std::size_t most_bytes);
  // The command has ended: reads the rest, and closes the pipe. What others write from now on is
  // not its output.
  void finish();

  Watched& pipe() { return pipe_; }
  std::string take_text() { return std::exchange(text_, {}); }
  bool truncated() const { return truncated_; }

 private:
  Watched pipe_;
  std::uint64_t limit_bytes_ = 0;
  std::string text_;
  bool truncated_ = false;
};

}  // namespace muster
