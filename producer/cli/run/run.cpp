#include "producer/cli/run/run.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <muster/producer.hpp>
#include <stdexcept>
#include <thread>

#include "producer/cli/nodes/hosts_words.hpp"
#include "producer/cli/nodes/node_rows.hpp"
#include "producer/cli/run/command_template.hpp"
#include "producer/cli/run/input_source.hpp"
#include "producer/cli/run/job_files.hpp"
#include "producer/cli/run/run_loop.hpp"
#include "producer/cli/terminal/output.hpp"
#include "producer/cli/terminal/stop_signals.hpp"

namespace muster {
namespace {

// Covers a 100 ms round trip at 20,000 commands a second, more than any machine starts.
constexpr std::size_t kRunAhead = 2048;
// One slow job need not hold up the others when nothing waits for its output.
constexpr std::size_t kWindowUnordered = std::size_t{1} << 20;
constexpr std::uint32_t kTriesWithoutEnd = 0xffff'ffff;
constexpr std::chrono::minutes kNodesPatience{5};  // the first time copies programs there

// The file with the inputs; closes what it opened.
class ArgumentFile {
 public:
  explicit ArgumentFile(const std::string& path) {
    if (path.empty() || path == "-") return;
    file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) {
      throw std::runtime_error(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
    }
  }
  ~ArgumentFile() {
    if (file_ != STDIN_FILENO) ::close(file_);
  }
  ArgumentFile(const ArgumentFile&) = delete;
  ArgumentFile& operator=(const ArgumentFile&) = delete;
  int file() const { return file_; }

 private:
  int file_ = STDIN_FILENO;
};

InputSource make_source(const RunOptions& options, const ArgumentFile& file) {
  if (options.inputs) return InputSource(*options.inputs);
  return {file.file(), options.null_separated ? '\0' : '\n'};
}

int print_commands(const RunOptions& options, InputSource& source, const StopSignals& signals) {
  const CommandTemplate command(options.command, options.shell);
  const auto skip = jobs_to_skip(
      options.resume == Resume::no ? "" : read_whole_file(options.joblog), options.resume);
  OutputFile out(STDOUT_FILENO);
  std::string input;
  std::uint64_t number = 0;
  while (signals.received() == 0 && out.error() == 0) {
    const auto state = source.next(input);
    if (state == InputSource::State::ended) break;
    if (state == InputSource::State::waiting) {
      out.flush();
      source.wait(signals.wake_file(), std::chrono::milliseconds(-1));
      continue;
    }
    ++number;
    if (!skip.contains(number)) out.write(command.line(input, number) + "\n");
  }
  out.flush();
  if (signals.received() != 0) return 128 + signals.received();
  return output_status(out.error());
}

JobOptions job_options(const RunOptions& options) {
  JobOptions job;
  job.timeout = options.timeout;
  job.cpus = options.cpus;
  job.memory_bytes = options.memory_bytes;
  job.gpus = options.gpus;
  job.labels = options.labels;
  if (options.unordered) job.window = kWindowUnordered;
  job.retries = options.tries == 0 ? kTriesWithoutEnd : options.tries - 1;
  return job;
}

// Everything under way must be running when --halt soon is to let it finish.
std::size_t most_under_way(const RunOptions& options, Producer& producer) {
  const bool only_running = options.halt.when == HaltRule::When::soon;
  if (options.broker.empty() && options.hosts.empty()) {
    if (!only_running) return kRunAhead;
    return options.jobs > 0 ? options.jobs : std::max(std::thread::hardware_concurrency(), 1U);
  }
  if (options.jobs > 0) return options.jobs;
  return only_running ? std::max(producer.status().total_slots, 1U) : kRunAhead;
}

Options pool_options(const RunOptions& options) {
  Options pool;
  pool.endpoint = options.broker;
  pool.broker_timeout = options.broker_timeout;
  if (options.hosts.empty()) {
    pool.embedded = options.broker.empty();
    pool.slots = options.jobs;
    return pool;
  }
  const HostsText hosts = hosts_of(options.hosts).front();
  pool.hosts = hosts.text;
  pool.hosts_origin = hosts.origin;
  pool.workers = 0;
  pool.connect_timeout = kNodesPatience;
  return pool;
}

// Other machines need not have this folder: jobs begin where their worker does.
bool is_on_other_machines(const RunOptions& options, Producer& producer) {
  if (!options.hosts.empty()) return true;
  return !options.broker.empty() && !node_rows(producer.status().json).empty();
}

// Jobs with files run elsewhere: a program of the current folder is named in full.
void use_own_program(RunOptions& options) {
  if (options.command.empty()) return;
  std::string& program = options.command.front();
  const bool is_path = program.starts_with("./") || program.starts_with("../");
  if (!is_path || ::access(program.c_str(), X_OK) != 0) return;
  program = std::filesystem::absolute(program).lexically_normal();
}

int run_in_pool(RunOptions options, InputSource& source, const StopSignals& signals) {
  // Before the pool: a job log that cannot be written is an error before anything runs.
  std::unordered_set<std::uint64_t> skip;
  std::unique_ptr<JoblogFile> joblog;
  if (options.resume != Resume::no) {
    skip = jobs_to_skip(read_whole_file(options.joblog), options.resume);
  }
  if (!options.joblog.empty()) {
    joblog = std::make_unique<JoblogFile>(options.joblog, options.resume != Resume::no);
  }
  if (options.halt.percent) source.read_all(signals.wake_file());
  JobFiles files(options);
  if (!files.none()) {
    files.check(options.inputs.value_or(std::vector<std::string>()));
    use_own_program(options);
  }
  Producer producer(pool_options(options));
  if (files.none() && options.directory.empty() && !is_on_other_machines(options, producer)) {
    options.directory = std::filesystem::current_path();
  }
  if (!files.none() && !producer.has_blobs()) {
    throw std::runtime_error(
        "--in and --out: this program does not see the folders of its broker; run it where the "
        "broker runs, outside of containers");
  }
  RunLoop loop(options, source, signals, joblog.get(), std::move(skip),
               most_under_way(options, producer), files);
  return loop.run(producer,
                  producer.stream({"run", true}, job_options(options), Order::completion));
}

}  // namespace

int output_status(int error) {
  if (error == 0) return 0;
  if (error == EPIPE) return 128 + SIGPIPE;
  throw std::runtime_error(
      fmt::format("cannot write to standard output: {}", std::strerror(error)));
}

int run_commands(const RunOptions& options) {
  int status = 0;
  {
    const StopSignals signals;
    const ArgumentFile file(options.argument_file);
    InputSource source = make_source(options, file);
    if (options.no_run_if_empty) source.skip_blank();
    const bool asks = !options.inputs && ::isatty(file.file()) == 1 && !options.quiet;
    if (asks) {
      fmt::print(stderr, "muster: reading inputs from the terminal, one on a line; Ctrl-D ends\n");
    }
    status = options.dry_run ? print_commands(options, source, signals)
                             : run_in_pool(options, source, signals);
  }
  // The reader of our output is gone: end the way other filters do.
  if (status == 128 + SIGPIPE) ::raise(SIGPIPE);
  return status;
}

}  // namespace muster
