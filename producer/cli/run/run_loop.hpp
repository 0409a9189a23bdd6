// The loop of `muster run`: inputs in, outcomes out. The only place that waits: for a result, or
// for an input when nothing is under way. It takes results in completion order, so that --halt and
// the job log see a job when it ends, and leaves the order of the output to the printer. Owner:
// run.cpp; one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <muster/producer.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "common/protocol/codec.hpp"
#include "producer/cli/run/command_template.hpp"
#include "producer/cli/run/halt_policy.hpp"
#include "producer/cli/run/input_source.hpp"
#include "producer/cli/run/job_files.hpp"
#include "producer/cli/run/joblog.hpp"
#include "producer/cli/run/result_printer.hpp"
#include "producer/cli/run/run_options.hpp"
#include "producer/cli/terminal/progress.hpp"
#include "producer/cli/terminal/stop_signals.hpp"

namespace muster {

// 0, or the status of a filter whose reader is gone. Throws std::runtime_error for other errors.
int output_status(int error);

class RunLoop {
 public:
  // Everything must outlive the loop. `joblog` may be null; at most `most_under_way` jobs are
  // submitted and not finished at any time.
  RunLoop(const RunOptions& options, InputSource& source, const StopSignals& signals,
          JoblogFile* joblog, std::unordered_set<std::uint64_t> skip, std::size_t most_under_way,
          JobFiles& files);
  RunLoop(const RunLoop&) = delete;
  RunLoop& operator=(const RunLoop&) = delete;

  // Runs every job of `stream` (completion order) of `producer` and returns the exit status.
  int run(Producer& producer, Stream stream);

 private:
  using Clock = std::chrono::steady_clock;
  struct Job {
    std::uint64_t number = 0;
    std::uint64_t position = 0;  // for the printer
    std::string input;
    JobFileList files;
  };

  bool over() const;
  void look_for_stop(Stream& stream);
  void stop(Stream& stream, bool kill);
  void fill(Producer& producer, Stream& stream);
  bool take_input(Stream& stream);
  bool push(Producer& producer, Stream& stream, Job& job);
  void fail_job(Stream& stream, Job&& job, const std::string& complaint);
  void step(Stream& stream);
  void take(Stream& stream, const StreamItem& item);
  void finish_job(Stream& stream, Job&& job, JobOutcome&& outcome);
  void log(const Job& job, const JobOutcome& outcome);
  void idle(Stream& stream);
  void show_progress();
  int finish();

  const RunOptions& options_;
  InputSource& source_;
  const StopSignals& signals_;
  JoblogFile* joblog_;
  std::unordered_set<std::uint64_t> skip_;
  std::size_t most_under_way_;
  CommandTemplate command_;
  CommandTask task_;  // what all jobs share; argv is filled in for each
  HaltPolicy halt_;
  Progress progress_;
  ResultPrinter printer_;
  JobFiles& files_;
  std::unordered_map<std::uint64_t, Job> under_way_;
  std::optional<Job> next_job_;  // not pushed yet
  std::uint64_t positions_ = 0;
  std::uint64_t inputs_ = 0;
  InputSource::State input_state_ = InputSource::State::ready;
  bool stopping_ = false;                     // no new jobs
  std::optional<Clock::time_point> give_up_;  // killed jobs are waited for until then
  int stop_signal_ = 0;
  std::string joblog_error_;
  bool said_waiting_ = false;
  Clock::time_point started_ = Clock::now();
  Clock::time_point last_result_ = started_;
};

}  // namespace muster
