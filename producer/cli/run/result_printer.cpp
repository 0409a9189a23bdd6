#include "producer/cli/run/result_printer.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "common/printable.hpp"

namespace muster {
namespace {

std::size_t size_of(const FinishedJob& job) {
  return job.outcome.output.size() + job.outcome.error_output.size() + job.input.size() +
         job.line.size();
}

}  // namespace

ResultPrinter::ResultPrinter(PrintStyle style, Progress& progress)
    : style_(style),
      progress_(progress),
      out_(STDOUT_FILENO),
      err_(STDERR_FILENO),
      on_terminal_(::isatty(STDOUT_FILENO) == 1) {}

void ResultPrinter::add(std::uint64_t position, FinishedJob job) {
  if (!style_.ordered || position == next_) {
    print(job);
    if (style_.ordered) ++next_;
  } else {
    held_bytes_ += size_of(job);
    held_.emplace(position, std::move(job));
  }
  while (!held_.empty() && held_.begin()->first == next_) {
    held_bytes_ -= size_of(held_.begin()->second);
    print(held_.begin()->second);
    held_.erase(held_.begin());
    ++next_;
  }
}

void ResultPrinter::release_all() {
  for (const auto& [position, job] : held_) print(job);
  held_.clear();
  held_bytes_ = 0;
}

void ResultPrinter::print(const FinishedJob& job) {
  const JobOutcome& outcome = job.outcome;
  if (outcome.cancelled) return;
  if (style_.verbose) remark(job.line);
  const auto output = outcome.output.text();
  if (!output.empty()) {
    progress_.clear();
    write(out_, output, job.input);
  }
  const auto error_output = outcome.error_output.text();
  if (!error_output.empty()) {
    progress_.clear();
    out_.flush();  // a job's standard output comes first, also when both are one file
    write(err_, error_output, job.input);
    err_.flush();
  }
  if (!outcome.complaint.empty() && !style_.quiet) {
    remark(fmt::format("muster: job {} ({}): {}", job.number, job.line, outcome.complaint));
  }
  if (outcome.truncated) {
    truncated_ = true;
    remark(
        fmt::format("muster: job {} ({}): its output was too long and is cut; write it to a file",
                    job.number, job.line));
  }
  if (on_terminal_) out_.flush();
}

void ResultPrinter::write(OutputFile& file, std::string_view text, const std::string& input) {
  if (style_.tag) {
    file.write(tag_lines(text, on_terminal_ ? printable_line(input) : input));
  } else {
    file.write(text);
  }
}

void ResultPrinter::remark(const std::string& text) {
  progress_.clear();
  out_.flush();
  err_.write(printable(text));
  err_.write("\n");
  err_.flush();
}

void ResultPrinter::flush() { out_.flush(); }

}  // namespace muster
