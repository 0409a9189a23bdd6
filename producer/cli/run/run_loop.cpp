#include "producer/cli/run/run_loop.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace muster {
namespace {

using std::chrono::milliseconds;

// How late an input may be seen that arrives while jobs are running.
constexpr milliseconds kInputPause{10};
// How late a stop signal may be seen when there is nothing but results to wait for.
constexpr milliseconds kResultPause{100};
constexpr milliseconds kSayWaitingAfter{2000};
// Killing takes as long as a job may ignore SIGTERM; then the pool's end kills what is left.
constexpr milliseconds kMostDraining{5000};
// Output that waits for an earlier job's; beyond it no new job starts.
constexpr std::size_t kMostHeldBytes = std::size_t{256} << 20;
// Per stream of a job; more is cut and said. A result may have 1 GiB.
constexpr std::uint64_t kOutputLimitBytes = std::uint64_t{256} << 20;

double unix_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

bool wants_progress(const RunOptions& options) {
  if (options.quiet || ::isatty(STDERR_FILENO) != 1) return false;
  return options.bar || ::isatty(STDOUT_FILENO) != 1;
}

CommandTask shared_part(const RunOptions& options) {
  CommandTask task;
  task.environment = options.environment;
  task.directory = options.directory;
  task.output_limit_bytes = kOutputLimitBytes;
  return task;
}

}  // namespace

RunLoop::RunLoop(const RunOptions& options, InputSource& source, const StopSignals& signals,
                 JoblogFile* joblog, std::unordered_set<std::uint64_t> skip,
                 std::size_t most_under_way, JobFiles& files)
    : options_(options),
      source_(source),
      signals_(signals),
      joblog_(joblog),
      skip_(std::move(skip)),
      most_under_way_(most_under_way),
      command_(options.command, options.shell),
      task_(shared_part(options)),
      halt_(options.halt, source.total().value_or(0)),
      progress_(wants_progress(options), StopSignals::line_drawn),
      printer_({!options.unordered, options.tag, options.quiet, options.verbose}, progress_),
      files_(files) {}

int RunLoop::run(Producer& producer, Stream stream) {
  try {
    while (!over()) {
      look_for_stop(stream);
      fill(producer, stream);
      step(stream);
    }
  } catch (const std::exception&) {
    progress_.clear();
    printer_.release_all();  // what finished is not lost
    printer_.flush();
    throw;
  }
  return finish();
}

bool RunLoop::over() const {
  if (printer_.output_error() != 0) return true;
  if (give_up_ && Clock::now() > *give_up_) return true;
  if (next_job_ && !stopping_) return false;
  return under_way_.empty() && (stopping_ || input_state_ == InputSource::State::ended);
}

void RunLoop::look_for_stop(Stream& stream) {
  if (stop_signal_ != 0 || signals_.received() == 0) return;
  stop_signal_ = signals_.received();
  stop(stream, true);
}

void RunLoop::stop(Stream& stream, bool kill) {
  stopping_ = true;
  if (!kill || give_up_) return;
  give_up_ = Clock::now() + kMostDraining;
  stream.cancel();
}

void RunLoop::fill(Producer& producer, Stream& stream) {
  while (!stopping_ && under_way_.size() < most_under_way_ &&
         printer_.held_bytes() < kMostHeldBytes && stream.has_room()) {
    if (!next_job_ && !take_input(stream)) break;
    if (!next_job_) continue;
    if (!push(producer, stream, *next_job_)) break;
    next_job_.reset();
  }
}

// Makes the next input a job, unless it is to be left out. False: there is none now.
bool RunLoop::take_input(Stream& stream) {
  Job job;
  input_state_ = source_.next(job.input);
  if (input_state_ != InputSource::State::ready) return false;
  job.number = ++inputs_;
  if (!skip_.empty() && skip_.contains(job.number)) return true;
  job.position = positions_++;
  try {
    if (!files_.none()) job.files = files_.list(job.input, job.number);
    next_job_ = std::move(job);
  } catch (const std::runtime_error& error) {
    fail_job(stream, std::move(job), error.what());
  }
  return true;
}

// Of a job whose files cannot be used: it did not run.
void RunLoop::fail_job(Stream& stream, Job&& job, const std::string& complaint) {
  JobOutcome outcome;
  outcome.exit_status = 1;
  outcome.host = ":";
  outcome.start_seconds = unix_seconds();
  outcome.complaint = complaint;
  finish_job(stream, std::move(job), std::move(outcome));
}

// False: there is no room for its files yet.
bool RunLoop::push(Producer& producer, Stream& stream, Job& job) {
  std::vector<Blob> blobs;
  task_.argv = command_.argv(job.input, job.number);
  if (!files_.none()) {
    try {
      const std::uint64_t bytes = files_.bytes_to_send(job.files);
      if (bytes > 0 && !under_way_.empty() && !producer.await_blob_room(bytes, milliseconds(0))) {
        return false;
      }
      blobs = files_.send(producer, job.files);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::invalid) throw;
      fail_job(stream, std::move(job), error.what());  // it is not there any more
      return true;
    } catch (const std::runtime_error& error) {
      fail_job(stream, std::move(job), error.what());
      return true;
    }
    task_.inputs.clear();
    task_.outputs.clear();
    for (const JobFile& file : job.files.inputs) task_.inputs.push_back(file.there);
    for (const JobFile& file : job.files.outputs) task_.outputs.push_back(file.there);
  }
  const auto sequence = stream.push(encode_command_task(task_), blobs);
  under_way_.emplace(sequence, std::move(job));
  return true;
}

void RunLoop::step(Stream& stream) {
  if (under_way_.empty()) {
    if (input_state_ != InputSource::State::waiting || stopping_) return;
    printer_.flush();
    progress_.clear();
    source_.wait(signals_.wake_file(), milliseconds(-1));
    last_result_ = Clock::now();
    return;
  }
  milliseconds pause = kResultPause;
  if (input_state_ == InputSource::State::waiting && !stopping_) pause = kInputPause;
  if (printer_.pending()) pause = milliseconds(0);
  const auto item = stream.next(pause);
  if (item) {
    take(stream, *item);
  } else {
    idle(stream);
  }
}

void RunLoop::take(Stream& stream, const StreamItem& item) {
  const auto found = under_way_.find(item.sequence);
  if (found == under_way_.end()) return;
  Job job = std::move(found->second);
  under_way_.erase(found);
  JobOutcome outcome = read_outcome(item, unix_seconds(), options_.timeout);
  if (outcome.host.empty() || options_.broker.empty()) outcome.host = ":";
  if (outcome.cancelled && !give_up_) {  // by somebody else than us
    outcome = JobOutcome{};
    outcome.exit_status = -1;
    outcome.host = ":";
    outcome.start_seconds = unix_seconds();
    outcome.complaint = "the pool cancelled it";
  }
  if (outcome.succeeded() && !job.files.outputs.empty()) {
    outcome.complaint = files_.receive(job.files, outcome.outputs, item.blobs);
    if (!outcome.complaint.empty()) outcome.exit_status = 1;
  }
  finish_job(stream, std::move(job), std::move(outcome));
}

void RunLoop::finish_job(Stream& stream, Job&& job, JobOutcome&& outcome) {
  if (!outcome.cancelled) {
    halt_.finished(outcome.shell_status());
    log(job, outcome);
  }
  FinishedJob finished{job.number, std::move(job.input), "", std::move(outcome)};
  const bool says = options_.verbose || !finished.outcome.complaint.empty();
  if (says || finished.outcome.truncated) {
    finished.line = command_.line(finished.input, finished.number);
  }
  printer_.add(job.position, std::move(finished));
  last_result_ = Clock::now();
  show_progress();
  if (stopping_) return;
  const auto verdict = halt_.verdict();
  if (!joblog_error_.empty() || verdict == HaltRule::When::now) stop(stream, true);
  if (verdict == HaltRule::When::soon) stop(stream, false);
  if (verdict != HaltRule::When::never && !options_.quiet) {
    printer_.remark(fmt::format("muster: stopping by the --halt rule after job {}", job.number));
  }
}

void RunLoop::log(const Job& job, const JobOutcome& outcome) {
  if (joblog_ == nullptr || !joblog_error_.empty()) return;
  JoblogEntry entry;
  entry.number = job.number;
  entry.host = outcome.host;
  entry.start_seconds = outcome.start_seconds;
  entry.runtime_seconds = outcome.runtime_seconds;
  entry.received_bytes = outcome.output.size();
  entry.exit_status = outcome.exit_status;
  entry.signal = outcome.signal;
  entry.command = command_.line(job.input, job.number);
  if (!joblog_->write(entry)) joblog_error_ = joblog_->error();
}

void RunLoop::idle(Stream& stream) {
  printer_.flush();
  show_progress();
  if (said_waiting_ || options_.quiet || Clock::now() - last_result_ < kSayWaitingAfter) return;
  const std::string reason = stream.waiting_reason();
  if (reason.empty()) return;
  said_waiting_ = true;
  printer_.remark("muster: waiting: " + reason);
}

void RunLoop::show_progress() {
  ProgressState state;
  state.done = halt_.done();
  state.failed = halt_.failed();
  state.running = under_way_.size();
  if (const auto total = source_.total()) {
    state.total = *total - std::min<std::uint64_t>(skip_.size(), *total);
  }
  state.elapsed = std::chrono::duration_cast<milliseconds>(Clock::now() - started_);
  progress_.update(state);
}

int RunLoop::finish() {
  progress_.clear();
  printer_.release_all();
  if (options_.verbose) {
    printer_.remark(
        fmt::format("muster: {} jobs done, {} of them failed", halt_.done(), halt_.failed()));
  }
  printer_.flush();
  const int status = output_status(printer_.output_error());
  if (!joblog_error_.empty()) throw std::runtime_error(joblog_error_);
  if (stop_signal_ != 0) return 128 + stop_signal_;
  if (status != 0) return status;
  if (printer_.truncated() && halt_.exit_status() == 0) return 255;
  return halt_.exit_status();
}

}  // namespace muster
