#include "producer/embedded.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <muster/outcome.hpp>
#include <thread>

#include "producer/programs.hpp"
#include "producer/supervisor.hpp"

namespace muster::detail {
namespace {

namespace fs = std::filesystem;

// On one machine a worker that a task took down is missed after three seconds, not ten.
constexpr const char* kHeartbeatSeconds = "0.5";
constexpr const char* kHeartbeatMisses = "6";

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

}  // namespace

Embedded::Embedded(const Options& options)
    : slots_(options.slots != 0 ? options.slots
                                : std::max(1U, std::thread::hardware_concurrency())) {
  const std::string broker = find_program("muster-broker");
  const std::string worker = find_program("muster-worker");
  for (const std::string& plugin : options.plugins) {
    if (fs::exists(plugin)) continue;
    throw Error(ErrorCode::unusable, "unusable", "the plug-in '" + plugin + "' does not exist");
  }
  folder_ = make_folder();
  endpoint_ = "ipc://" + folder_ + "/broker";
  const std::string lifeline = std::to_string(Supervisor::kLifelineDescriptor);
  std::vector<std::string> argv = {worker,
                                   "--connect",
                                   endpoint_,
                                   "--slots",
                                   std::to_string(slots_),
                                   "--executor",
                                   options.executor == Executor::thread ? "thread" : "process",
                                   "--lifeline",
                                   lifeline};
  for (const std::string& plugin : options.plugins) {
    argv.insert(argv.end(), {"--plugin", plugin});
  }
  try {
    supervisor_ = std::make_unique<Supervisor>();
    supervisor_->start({broker, "--listen", endpoint_, "--lifeline", lifeline, "--private",
                        "--log-level", "warn", "--heartbeat-interval", kHeartbeatSeconds,
                        "--heartbeat-misses", kHeartbeatMisses});
    supervisor_->start(std::move(argv));
    supervisor_->run();
  } catch (...) {
    supervisor_.reset();
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
    throw;
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

void Embedded::started() { supervisor_->keep_alive(); }

}  // namespace muster::detail
