// The options of `muster run`, from the words of the command line. Pure but for reading
// the environment, the runtime folder and the current directory. Threads: plain values.
#pragma once

#include <CLI/App.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "producer/cli/run/halt_policy.hpp"
#include "producer/cli/run/joblog.hpp"

namespace muster {

struct RunOptions {
  std::vector<std::string> command;
  std::optional<std::vector<std::string>> inputs;  // after `:::`; nothing: read them
  std::string argument_file;                       // empty: standard input
  bool null_separated = false;
  bool no_run_if_empty = false;
  bool shell = false;
  bool unordered = false;
  bool tag = false;
  bool dry_run = false;
  bool bar = false;
  bool quiet = false;
  bool verbose = false;
  std::uint32_t jobs = 0;  // 0: the number of processors; with a broker: as many as fit
  std::chrono::milliseconds timeout{0};
  std::uint32_t tries = 1;  // 0: until it succeeds
  double cpus = 0;          // of one job; 0: a slot's share
  std::uint64_t memory_bytes = 0;
  std::uint32_t gpus = 0;
  std::vector<std::string> labels;
  HaltRule halt;
  std::string joblog;
  Resume resume = Resume::no;
  std::vector<std::pair<std::string, std::string>> environment;
  std::vector<std::string> input_files;   // templates of names
  std::vector<std::string> output_files;  // ... of files that the jobs make
  std::string directory;  // empty: the current one, on other machines the home folder
  std::string broker;     // empty: an embedded pool
  std::optional<std::chrono::milliseconds> broker_timeout;  // nothing: waits for it without end
  std::vector<std::string> hosts;  // what the embedded pool reaches by ssh; empty: this machine
};

// The words after `muster run`, cut where the options end and where the inputs begin.
struct RunWords {
  std::vector<std::string> options;  // and, without `--`, the command
  std::vector<std::string> command;  // after `--`
  std::optional<std::vector<std::string>> inputs;
  bool has_separator = false;  // there was a `--`
};
RunWords split_run_words(const std::vector<std::string>& words);

// "90", "1.5", "500ms", "10s", "5m", "2h" or "1d"; nothing: it is not a time, or longer than a
// year.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);

// Adds the options to `app` (the subcommand `run`), which then fills a RunOptions.
class RunParser {
 public:
  explicit RunParser(CLI::App& app);
  RunParser(const RunParser&) = delete;
  RunParser& operator=(const RunParser&) = delete;
  // After parsing: the options. Throws CLI::ValidationError when they contradict each other.
  RunOptions options(const RunWords& words) const;

 private:
  void add_input_options();
  void add_output_options();
  void add_job_options();
  void add_file_options();
  void add_resource_options();
  void add_log_options();

  CLI::App& app_;
  RunOptions parsed_;
  std::string timeout_;
  std::string broker_timeout_;
  std::string halt_ = "never";
  std::vector<std::string> environment_;
  std::vector<std::string> hosts_;
  std::string hosts_file_;
  bool resume_ = false;
  bool resume_failed_ = false;
};

}  // namespace muster
