#include "producer/embedded/embedded.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <muster/outcome.hpp>
#include <thread>

#include "common/protocol/limits.hpp"
#include "producer/embedded/programs.hpp"
#include "producer/embedded/supervisor.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster::detail {
namespace {

namespace fs = std::filesystem;

// On one machine a worker that a task took down is missed after three seconds, not ten.
constexpr const char* kHeartbeatSeconds = "0.5";
constexpr const char* kHeartbeatMisses = "6";
constexpr unsigned kMostWorkers = 256;  // processes on one machine

// A folder of mode 0700 that nobody else has.
std::string make_folder() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  for (const char* base : {runtime, "/tmp"}) {
    if (base == nullptr || *base == '\0') continue;
    std::string path = std::string(base) + "/muster-XXXXXX";
    if (mkdtemp(path.data()) != nullptr) return path;
  }
  throw Error(
      ErrorCode::unusable, "unusable",
      std::string("cannot make a folder in XDG_RUNTIME_DIR or /tmp: ") + std::strerror(errno));
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

unsigned slots_of(const Options& options) {
  return options.slots != 0 ? options.slots : std::max(1U, std::thread::hardware_concurrency());
}

void check(const Options& options) {
  const bool may_be_none = options.embedded || !options.hosts.empty();  // hosts can follow by up()
  if ((options.workers == 0 && !may_be_none) || options.workers > kMostWorkers) {
    throw invalid_call("Options::workers must be between 1 and " + std::to_string(kMostWorkers));
  }
  if (options.slots > limits::kMaxSlots) {
    throw invalid_call("Options::slots must be at most " + std::to_string(limits::kMaxSlots));
  }
  if (options.python.empty() != options.python_version.empty()) {
    throw invalid_call("Options::python and Options::python_version go together");
  }
  for (const std::string& plugin : options.plugins) {
    if (fs::exists(plugin)) continue;
    throw Error(ErrorCode::unusable, "unusable", "the plug-in '" + plugin + "' does not exist");
  }
}

const std::string kLifeline = std::to_string(Supervisor::kLifelineDescriptor);

std::vector<std::string> worker_command(const Options& options, const std::string& program,
                                        const std::string& endpoint) {
  std::vector<std::string> argv = {program,
                                   "--connect",
                                   endpoint,
                                   "--slots",
                                   std::to_string(slots_of(options)),
                                   "--executor",
                                   options.executor == Executor::thread ? "thread" : "process",
                                   "--lifeline",
                                   kLifeline};
  for (const std::string& plugin : options.plugins) {
    argv.insert(argv.end(), {"--plugin", plugin});
  }
  if (options.python.empty()) {
    argv.insert(argv.end(), {"--python", "none"});
  } else {
    argv.insert(argv.end(),
                {"--python", options.python, "--python-version", options.python_version});
  }
  return argv;
}

}  // namespace

Embedded::Embedded(const Options& options) {
  check(options);
  total_slots_ = options.workers * slots_of(options);
  const std::string broker = find_program("muster-broker", options.programs);
  const std::string worker = find_program("muster-worker", options.programs);
  folder_ = make_folder();
  endpoint_ = "ipc://" + folder_ + "/broker";
  try {
    start(options, broker, worker);
  } catch (...) {
    supervisor_.reset();
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
    throw;
  }
}

void Embedded::start(const Options& options, const std::string& broker, const std::string& worker) {
  supervisor_ = std::make_unique<Supervisor>(options.environment);
  std::vector<std::string> argv = {broker,    "--listen",  endpoint_,     "--lifeline",
                                   kLifeline, "--private", "--log-level", "warn"};
  if (options.workers > 0) {
    argv.insert(argv.end(), {"--heartbeat-interval", kHeartbeatSeconds, "--heartbeat-misses",
                             kHeartbeatMisses});
  }
  for (const std::string& plugin : options.plugins) {
    argv.insert(argv.end(), {"--node-plugin", fs::absolute(plugin).lexically_normal().string()});
  }
  if (!options.spool.empty()) argv.insert(argv.end(), {"--spool", options.spool});
  supervisor_->start(std::move(argv));
  supervisor_->run();
  await_socket();
  argv = worker_command(options, worker, endpoint_);
  if (options.workers == 1) {
    supervisor_->start(std::move(argv));
  } else {
    const std::string host = host_name();
    argv.insert(argv.end(), {"--node", ""});
    for (unsigned number = 1; number <= options.workers; ++number) {
      argv.back() = host + "-" + std::to_string(number);
      supervisor_->start(argv);
    }
  }
}

// A process that connects before there is a socket tries again only after a while.
void Embedded::await_socket() const {
  constexpr std::chrono::milliseconds kStep{1};
  constexpr std::chrono::seconds kLimit{2};
  const auto deadline = std::chrono::steady_clock::now() + kLimit;
  const std::string path = folder_ + "/broker";
  while (!fs::exists(path) && std::chrono::steady_clock::now() < deadline) {
    check_alive();
    std::this_thread::sleep_for(kStep);
  }
}

Embedded::~Embedded() {
  supervisor_.reset();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void Embedded::check_alive() const {
  const std::string obituary = supervisor_->obituary();
  if (obituary.empty()) return;
  throw Error(ErrorCode::unusable, "unusable", "the embedded pool did not start: " + obituary);
}

// The broker gives its nodes a little less.
void Embedded::has_nodes() { supervisor_->set_grace(std::chrono::seconds(6)); }

void Embedded::started() { supervisor_->keep_alive(); }

}  // namespace muster::detail
