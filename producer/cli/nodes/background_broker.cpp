#include "producer/cli/nodes/background_broker.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/system/process_end.hpp"
#include "common/system/user_cache.hpp"
#include "producer/client/discovery.hpp"
#include "producer/embedded/programs.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "ipc://";
constexpr std::chrono::seconds kStartPatience{20};
constexpr std::chrono::milliseconds kStep{10};
// Nodes of a standing pool sleep, travel and come back: tasks wait for them for an hour.
constexpr const char* kNoWorkerSeconds = "3600";
constexpr std::uintmax_t kLogBytes = 4 << 20;  // beyond, a new log is begun
constexpr std::size_t kLastWords = 2000;
// Beside the socket: the nodes of this broker, for the next one after a crash.
constexpr const char* kNodesSuffix = ".nodes";

std::string path_of(const std::string& endpoint) {
  if (!endpoint.starts_with(kPrefix)) {
    throw std::runtime_error(endpoint + ": muster up starts brokers at ipc:///path endpoints only");
  }
  return endpoint.substr(kPrefix.size());
}

std::string own_program() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) throw std::runtime_error("cannot find the program of muster: " + error.message());
  return program.string();
}

// What the program would be started with; closes itself.
class SpawnPlan {
 public:
  explicit SpawnPlan(const std::string& log) {
    constexpr int kFlags = O_WRONLY | O_CREAT | O_APPEND;
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions_, STDOUT_FILENO, log.c_str(), kFlags, 0600);
    posix_spawn_file_actions_adddup2(&actions_, STDOUT_FILENO, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1);
    posix_spawn_file_actions_addchdir_np(&actions_, "/");
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setflags(&attributes_,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  pid_t start(std::vector<std::string> words) const {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t process = -1;
    const int error = posix_spawn(&process, argv[0], &actions_, &attributes_, argv.data(), environ);
    if (error != 0) {
      throw std::runtime_error(
          fmt::format("cannot start {}: {}", words.front(), std::strerror(error)));
    }
    return process;
  }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

std::string last_words(const std::string& log, std::uintmax_t from) {
  std::ifstream file(log, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(from));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  while (text.ends_with('\n')) text.pop_back();
  return text.size() <= kLastWords ? text : text.substr(text.size() - kLastWords);
}

std::uintmax_t size_of(const std::string& file) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(file, error);
  return error ? 0 : size;
}

// A full disk, which takes no log, does not justify going without a broker.
std::string usable_log(const std::string& log) {
  if (size_of(log) > kLogBytes) ::unlink(log.c_str());
  const int file =
      ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file < 0) return "/dev/null";
  ::close(file);
  return log;
}

// What standing workers need, if it is where people put it.
std::vector<std::string> key_options() {
  const char* config = std::getenv("XDG_CONFIG_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder;
  if (config != nullptr && *config == '/') {
    folder = config;
  } else if (home != nullptr && *home == '/') {
    folder = fs::path(home) / ".config";
  } else {
    return {};
  }
  const fs::path key = folder / "muster" / "broker.key";
  const fs::path authorized = folder / "muster" / "authorized_workers";
  std::error_code error;
  if (!fs::exists(key, error) || !fs::exists(authorized, error)) return {};
  return {"--key", key.string(), "--authorized-workers", authorized.string()};
}

// Where the values that programs cache in the pool outlive its broker: one folder for each machine
// and endpoint. Nothing: there is no place.
std::vector<std::string> spool_options(const std::string& endpoint) {
  fs::path folder = user_cache();
  if (folder.empty()) return {};
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  std::string name = host.data() + path_of(endpoint);
  std::replace(name.begin(), name.end(), '/', '-');
  folder = folder / "spool" / name;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || ::access(folder.c_str(), W_OK) != 0) return {};
  return {"--spool", folder.string()};
}

}  // namespace

std::string place_of_broker(const std::string& given) {
  std::string endpoint = endpoint_or_default(given);
  if (!endpoint.empty()) return endpoint;
  const std::string folder = runtime_folders().front();
  if (const std::string complaint = folder_complaint(folder); !complaint.empty()) {
    throw std::runtime_error("no place for the broker's socket: " + complaint);
  }
  return fmt::format("{}{}/broker", kPrefix, folder);
}

std::string log_of_broker(const std::string& endpoint) { return path_of(endpoint) + ".log"; }

bool start_broker(const std::string& endpoint) {
  if (broker_runs(endpoint)) return false;
  const std::string program = detail::find_program("muster-broker", "");
  const fs::path folder = fs::path(path_of(endpoint)).parent_path();
  const mode_t before = ::umask(0077);
  std::error_code error;
  fs::create_directories(folder, error);
  const std::string log = usable_log(log_of_broker(endpoint));
  ::umask(before);
  if (error) {
    throw std::runtime_error(
        fmt::format("cannot make the folder {}: {}", folder.string(), error.message()));
  }
  const std::uintmax_t begin = size_of(log);
  const std::string nodes = path_of(endpoint) + kNodesSuffix;
  ::unlink(nodes.c_str());  // those of a pool of long ago
  std::vector<std::string> words = {
      own_program(),         "keep-broker",    endpoint,           program, "--listen", endpoint,
      "--no-worker-timeout", kNoWorkerSeconds, "--remember-nodes", nodes};
  for (std::string& word : key_options()) words.push_back(std::move(word));
  for (std::string& word : spool_options(endpoint)) words.push_back(std::move(word));
  pid_t process = SpawnPlan(log).start(std::move(words));
  const auto deadline = std::chrono::steady_clock::now() + kStartPatience;
  while (!broker_serves(endpoint)) {
    const bool ended = process != -1 && reap(process);
    if (ended) process = -1;
    // Another `muster up` may have been quicker: its broker is on the way then.
    const bool late = std::chrono::steady_clock::now() > deadline;
    const std::string said = last_words(log, begin);
    const bool is_second = said.find("another broker already listens") != std::string::npos;
    if (late || (process == -1 && !is_second)) {
      throw std::runtime_error(
          fmt::format("the broker did not start: {}", said.empty() ? "it said nothing" : said));
    }
    std::this_thread::sleep_for(kStep);
  }
  return process != -1;
}

void clean_up_after_broker(const std::string& endpoint) {
  if (!endpoint.starts_with(kPrefix) || broker_runs(endpoint)) return;
  if (broker_is_kept(endpoint)) return;
  const std::string path = path_of(endpoint);
  const int lock = ::open((path + ".lock").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (lock >= 0 && ::flock(lock, LOCK_EX | LOCK_NB) != 0) {  // one is just starting
    ::close(lock);
    return;
  }
  for (const char* suffix : {"", ".lock", ".log", ".keeper", kNodesSuffix})
    ::unlink((path + suffix).c_str());
  if (lock >= 0) ::close(lock);
  const std::string folder = fs::path(path).parent_path().string();
  const auto own = runtime_folders();
  if (std::find(own.begin(), own.end(), folder) != own.end()) ::rmdir(folder.c_str());
}

}  // namespace muster
