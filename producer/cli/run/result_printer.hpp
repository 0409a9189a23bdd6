// Prints the outcomes of jobs: each in one piece, in the order of the inputs or as they finish.
// Owner: the run loop; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "producer/cli/run/job_outcome.hpp"
#include "producer/cli/terminal/output.hpp"
#include "producer/cli/terminal/progress.hpp"

namespace muster {

struct FinishedJob {
  std::uint64_t number = 0;  // of the input, counted from 1
  std::string input;
  std::string line;  // the command, for --verbose
  JobOutcome outcome;
};

struct PrintStyle {
  bool ordered = true;
  bool tag = false;
  bool quiet = false;
  bool verbose = false;
};

class ResultPrinter {
 public:
  ResultPrinter(PrintStyle style, Progress& progress);

  // The outcome of the `position`-th submitted job, counted from 0 without gaps.
  void add(std::uint64_t position, FinishedJob job);
  // Prints what waits for jobs that will not come, in order.
  void release_all();
  // A remark of Muster's own on standard error, between outputs.
  void remark(const std::string& text);
  void flush();
  // Whether something is not yet handed to the system.
  bool pending() const { return out_.pending(); }
  // Bytes of output that wait for the output of an earlier job.
  std::size_t held_bytes() const { return held_bytes_; }
  int output_error() const { return out_.error(); }
  bool truncated() const { return truncated_; }

 private:
  void print(const FinishedJob& job);
  void write(OutputFile& file, std::string_view text, const std::string& input);

  PrintStyle style_;
  Progress& progress_;
  OutputFile out_;
  OutputFile err_;
  bool on_terminal_;
  std::map<std::uint64_t, FinishedJob> held_;
  std::uint64_t next_ = 0;
  std::size_t held_bytes_ = 0;
  bool truncated_ = false;
};

}  // namespace muster
