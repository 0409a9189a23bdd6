// The progress line of `muster run`: one line on standard error that is drawn over and over and
// leaves no trace. boost::timer::progress_display was looked at: it needs a known total, and its
// three lines cannot be taken back when a job's own output comes between.
// Owner: the run loop; one thread. `progress_line` is pure.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace muster {

struct ProgressState {
  std::uint64_t done = 0;
  std::uint64_t failed = 0;
  std::uint64_t running = 0;           // submitted and not done
  std::optional<std::uint64_t> total;  // unknown while the input is being read
  std::chrono::milliseconds elapsed{0};
};

// At most `columns` characters: a bar with percentage and remaining time when the total is known,
// counts otherwise.
std::string progress_line(const ProgressState& state, std::size_t columns);

class Progress {
 public:
  // `line_drawn` is told when the line is there and when it is gone, for the signal handler.
  Progress(bool enabled, void (*line_drawn)(bool)) : enabled_(enabled), line_drawn_(line_drawn) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Draws, at most ten times a second.
  void update(const ProgressState& state);
  // Takes the line away, so that something else can be written.
  void clear();

 private:
  bool enabled_;
  void (*line_drawn_)(bool);
  bool drawn_ = false;
  std::chrono::milliseconds last_{-1000};
};

}  // namespace muster
