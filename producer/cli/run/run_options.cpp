#include "producer/cli/run/run_options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>

#include "producer/client/discovery.hpp"

namespace muster {
namespace {

constexpr std::string_view kListMark = ":::";
constexpr double kMostSeconds = 366.0 * 24 * 3600;

constexpr const char* kDescription =
    "Run a command for every input, over all slots of a pool.\n"
    "\n"
    "  muster run [OPTIONS] [--] COMMAND [WORDS...] [::: INPUTS...]\n"
    "\n"
    "Inputs are the words after ':::', or else the lines of standard input, read as they come.\n"
    "In every word of the command {} stands for the input, {.} for it without extension, {/} for\n"
    "its base name, {//} for its directory, {/.} for the base name without extension and {#} for\n"
    "its number; without any of these the input becomes the last word. No shell is involved,\n"
    "unless the command is one quoted word such as 'gzip -c {} > {/}.gz', or with --shell.\n"
    "Outputs come in the order of the inputs, each in one piece.";

constexpr const char* kExamples =
    "Examples:\n"
    "  muster run gzip -9 ::: *.log                    one gzip for each file\n"
    "  find . -name '*.wav' | muster run lame {} {.}.mp3\n"
    "  muster run 'grep -c error {} > {/.}.count' ::: logs/*.txt\n"
    "  find . -print0 | muster run -0 sha256sum        any file name\n"
    "  muster run -j4 --timeout 10m --retries 3 --joblog jobs.log ./simulate --seed ::: 1 2 3\n"
    "  muster run --resume-failed --joblog jobs.log ./simulate --seed ::: 1 2 3\n"
    "  muster run --halt now,fail=1 ./check {} ::: a b c\n"
    "  tail -f queue | muster run --unordered ./handle\n"
    "\n"
    "Exit status: 0 all jobs succeeded; 1-100 that many failed; 101 more than 100 failed; 130 or\n"
    "143 stopped by Ctrl-C or SIGTERM; 255 muster itself could not go on. With --halt, see\n"
    "docs/run.md.";

std::chrono::milliseconds time_of(const char* option, const std::string& text) {
  if (const auto time = parse_duration(text)) return *time;
  throw CLI::ValidationError(option, "'" + text + "' is not a time: use 10s");
}

}  // namespace

RunWords split_run_words(const std::vector<std::string>& words) {
  RunWords split;
  const auto list = std::find(words.begin(), words.end(), kListMark);
  if (list != words.end()) split.inputs.emplace(std::next(list), words.end());
  const auto separator = std::find(words.begin(), list, "--");
  split.options.assign(words.begin(), separator);
  split.has_separator = separator != list;
  if (split.has_separator) split.command.assign(std::next(separator), list);
  return split;
}

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  double seconds = 0;
  if (unit.empty() || unit == "s") {
    seconds = value;
  } else if (unit == "ms") {
    seconds = value / 1000;
  } else if (unit == "m") {
    seconds = value * 60;
  } else if (unit == "h") {
    seconds = value * 3600;
  } else if (unit == "d") {
    seconds = value * 24 * 3600;
  } else {
    return std::nullopt;
  }
  if (!(seconds >= 0) || seconds > kMostSeconds) return std::nullopt;
  const auto milliseconds = std::llround(seconds * 1000);
  if (milliseconds == 0 && seconds > 0) return std::chrono::milliseconds(1);
  return std::chrono::milliseconds(milliseconds);
}

RunParser::RunParser(CLI::App& app) : app_(app) {
  app_.description(kDescription);
  app_.footer(kExamples);
  app_.prefix_command();                // the first word that is no option starts the command
  app_.option_defaults()->take_last();  // an alias may set what the command line then overrides
  add_input_options();
  add_job_options();
  add_file_options();
  add_resource_options();
  add_output_options();
  add_log_options();
}

void RunParser::add_input_options() {
  app_.add_option("-a,--arg-file", parsed_.argument_file, "Read the inputs from FILE")
      ->type_name("FILE")
      ->check(CLI::ExistingPath)
      ->group("Inputs");
  app_.add_flag("-0,--null", parsed_.null_separated, "Inputs end with NUL instead of a line end")
      ->group("Inputs");
  app_.add_flag("-r,--no-run-if-empty", parsed_.no_run_if_empty,
                "Leave out inputs of nothing but white space")
      ->group("Inputs");
}

void RunParser::add_job_options() {
  app_.add_option("-j,--jobs", parsed_.jobs,
                  "Slots of the pool on this machine (default: its processors); with a broker: at "
                  "most N jobs under way")
      ->type_name("N")
      ->check(CLI::Range(1U, 65536U))
      ->group("Jobs");
  app_.add_option("--timeout", timeout_,
                  "Kill a job, with all its children, that runs longer: 90, 10s, 5m, 2h")
      ->type_name("TIME")
      ->group("Jobs");
  app_.add_option("--retries", parsed_.tries,
                  "Try a failing job N times in all; 0: until it succeeds")
      ->type_name("N")
      ->group("Jobs");
  app_.add_option("--halt", halt_,
                  "Stop early: WHEN,WHY=N or N%, WHEN now (kill running jobs) or soon (let them "
                  "finish), WHY fail, success or done; or never")
      ->type_name("RULE")
      ->group("Jobs");
  app_.add_flag("--shell", parsed_.shell, "Join the words and run them by /bin/sh; quotes inputs")
      ->group("Jobs");
  app_.add_option("--env", environment_,
                  "Set a variable for the jobs; without value: as it is here")
      ->type_name("NAME[=VALUE]")
      ->allow_extra_args(false)
      ->take_all()
      ->group("Jobs");
  app_.add_option(
          "--workdir", parsed_.directory,
          "Where jobs run (default: the current directory; on other machines the home folder)")
      ->type_name("DIR")
      ->group("Jobs");
  app_.add_option("--broker", parsed_.broker,
                  "Use the pool of this broker (default: MUSTER_BROKER, else the one that `muster "
                  "up` started; without: a pool of its own on this machine)")
      ->type_name("ENDPOINT")
      ->group("Jobs");
  app_.add_option(
          "--broker-timeout", broker_timeout_,
          "Give up when the broker is silent for longer: 90, 10s, 5m, 2h (default: never; a "
          "remark says that it is silent)")
      ->type_name("TIME")
      ->group("Jobs");
  app_.add_option("--host", hosts_,
                  "Run on this machine, [user@]host[:port][*slots]; again for more")
      ->type_name("HOST")
      ->allow_extra_args(false)
      ->take_all()
      ->group("Jobs");
  app_.add_option("--hosts", hosts_file_, "Run on the machines of this hosts file")
      ->type_name("FILE")
      ->group("Jobs");
}

void RunParser::add_file_options() {
  app_.add_option(
          "--in", parsed_.input_files,
          "A file that a job reads, with replacement strings: it gets a copy; again for more")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->take_all()
      ->group("Files of a job, which then runs in a folder of its own");
  app_.add_option(
          "--out", parsed_.output_files,
          "A file that a job makes, with replacement strings: it comes back; again for more")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->take_all()
      ->group("Files of a job, which then runs in a folder of its own");
}

void RunParser::add_resource_options() {
  app_.add_option("--cpus", parsed_.cpus, "Cores that one job takes, e.g. 4 or 0.5")
      ->type_name("N")
      ->check(CLI::Range(0.001, 65536.0))
      ->group("What one job takes");
  app_.add_option("--memory", parsed_.memory_bytes,
                  "Memory that one job may use, e.g. 2GiB; a job that uses more is ended")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("BYTES")
      ->group("What one job takes");
  app_.add_option("--gpus", parsed_.gpus,
                  "GPUs that one job takes; CUDA_VISIBLE_DEVICES tells it which")
      ->type_name("N")
      ->check(CLI::Range(0U, 1024U))
      ->group("What one job takes");
  app_.add_option("--label", parsed_.labels,
                  "Run on workers with this label only; with all of them when given again")
      ->type_name("NAME")
      ->allow_extra_args(false)
      ->take_all()
      ->group("What one job takes");
}

void RunParser::add_output_options() {
  app_.add_flag("--unordered", parsed_.unordered, "Print outputs as jobs finish")->group("Output");
  app_.add_flag("--tag", parsed_.tag, "Begin every line with the input and a TAB")->group("Output");
  app_.add_flag("--bar,--progress", parsed_.bar,
                "Show progress on standard error, even if output goes to the terminal as well")
      ->group("Output");
  app_.add_flag("--dry-run", parsed_.dry_run, "Print the commands instead of running them")
      ->group("Output");
  app_.add_flag("-q,--quiet", parsed_.quiet, "No progress, no remarks about jobs")->group("Output");
  app_.add_flag("-v,--verbose", parsed_.verbose,
                "Print each command before its output, and a summary (standard error)")
      ->group("Output");
}

void RunParser::add_log_options() {
  app_.add_option("--joblog", parsed_.joblog,
                  "Write a line about each finished job, as GNU parallel does; +FILE appends")
      ->type_name("FILE")
      ->group("Job log");
  app_.add_flag("--resume", resume_, "Leave out jobs that the job log mentions")->group("Job log");
  app_.add_flag("--resume-failed", resume_failed_, "Leave out jobs that the job log calls good")
      ->group("Job log");
}

RunOptions RunParser::options(const RunWords& words) const {
  RunOptions options = parsed_;
  options.command = app_.remaining();
  if (!options.command.empty() && options.command.front().starts_with('-')) {
    throw CLI::ValidationError(options.command.front(), "there is no such option of muster run");
  }
  if (words.has_separator && !options.command.empty()) options.command.emplace_back("--");
  options.command.insert(options.command.end(), words.command.begin(), words.command.end());
  options.inputs = words.inputs;
  if (options.inputs && std::count(options.inputs->begin(), options.inputs->end(), kListMark) > 0) {
    throw CLI::ValidationError(":::", "give one list of inputs only");
  }
  if (options.inputs && !options.argument_file.empty()) {
    throw CLI::ValidationError("--arg-file", "inputs come from a file or after ':::', not both");
  }
  if (!timeout_.empty()) options.timeout = time_of("--timeout", timeout_);
  if (!broker_timeout_.empty()) {
    options.broker_timeout = time_of("--broker-timeout", broker_timeout_);
  }
  const auto halt = parse_halt(halt_);
  if (!halt) {
    throw CLI::ValidationError("--halt",
                               "'" + halt_ + "' is not a rule: use now,fail=1 or soon,fail=3");
  }
  options.halt = *halt;
  if (resume_) options.resume = Resume::unfinished;
  if (resume_failed_) options.resume = Resume::failed;
  if (options.resume != Resume::no && options.joblog.empty()) {
    throw CLI::ValidationError(resume_ ? "--resume" : "--resume-failed", "needs --joblog FILE");
  }
  for (const auto& text : environment_) {
    const auto equals = text.find('=');
    if (equals == 0 || text.empty()) {
      throw CLI::ValidationError("--env", "'" + text + "' has no name: use NAME or NAME=VALUE");
    }
    if (equals != std::string::npos) {
      options.environment.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    } else if (const char* value = std::getenv(text.c_str()); value != nullptr) {
      options.environment.emplace_back(text, value);
    }
  }
  const bool has_files = !options.input_files.empty() || !options.output_files.empty();
  if (has_files && !options.directory.empty()) {
    throw CLI::ValidationError("--workdir", "jobs with --in or --out run in folders of their own");
  }
  if (!options.directory.empty()) {
    options.directory = std::filesystem::absolute(options.directory).lexically_normal();
  }
  if (!hosts_.empty() || !hosts_file_.empty()) {
    if (!options.broker.empty()) {
      throw CLI::ValidationError("--broker",
                                 "a running pool has its own hosts: see `muster up --help`");
    }
    if (!hosts_.empty() && !hosts_file_.empty()) {
      throw CLI::ValidationError("--host", "name hosts one by one or in a file, not both");
    }
    options.hosts = hosts_;
    if (!hosts_file_.empty()) {  // with a folder, or it could be a host's name
      options.hosts = {std::filesystem::absolute(hosts_file_).string()};
    }
    return options;
  }
  options.broker = endpoint_or_default(options.broker);
  return options;
}

}  // namespace muster
