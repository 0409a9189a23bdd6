#include "worker/attach/attach_spawn.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <stdexcept>
#include <vector>

#include "common/system/pointers.hpp"
#include "worker/system/spawn.hpp"

namespace muster {
namespace {

constexpr int kControlDescriptor = 3;
constexpr const char* kLog = "log";
constexpr std::streamoff kTailBytes = 2000;

std::string home_folder() {
  const char* home = std::getenv("HOME");
  return home == nullptr || home[0] != '/' ? "/" : home;
}

// From the home folder, as a person on that machine would mean it.
std::string from_home(const std::string& path) {
  if (path.empty() || path == "~") return home_folder();
  if (path.starts_with("~/")) return home_folder() + path.substr(1);
  return path.front() == '/' ? path : home_folder() + "/" + path;
}

std::vector<std::string> worker_arguments(const AttachConfig& config, const std::string& cache) {
  std::vector<std::string> words = {
      own_program(),   "--control",   std::to_string(kControlDescriptor),
      "--node",        config.node,   "--executor",
      config.executor, "--log-level", "info"};
  const auto add = [&](const char* option, const std::string& value) {
    words.insert(words.end(), {option, value});
  };
  if (config.slots > 0) add("--slots", std::to_string(config.slots));
  if (!config.python_environment.empty()) {
    const auto python = read_environment(cache, config.python_environment);
    if (!python) {
      throw std::runtime_error(
          "the Python environment was removed meanwhile: the broker makes it again when it tries "
          "next");
    }
    add("--python", python->interpreter);
    if (!python->version.empty()) add("--python-version", python->version);
  } else if (config.python != "auto") {
    add("--python", config.python.empty() ? "none" : config.python);
  }
  for (const std::string& label : config.labels) add("--label", label);
  for (const std::string& plugin : config.plugins) {
    add("--plugin", fmt::format("{}/plugins/{}", cache, plugin));
  }
  if (config.max_cores > 0) add("--max-cores", std::to_string(config.max_cores));
  if (config.max_memory > 0) {
    add("--max-memory", std::to_string(config.max_memory));
    words.emplace_back("--enforce-memory");
  }
  if (config.nice > 0) add("--nice", std::to_string(config.nice));
  if (config.pause_load > 0) add("--pause-load", fmt::format("{}", config.pause_load));
  return words;
}

std::vector<std::string> worker_environment(const AttachConfig& config, const std::string& cache) {
  std::string path;
  const auto append = [&path](const std::string& folder) {
    if (folder.empty()) return;
    if (!path.empty()) path += ":";
    path += folder;
  };
  for (const std::string& folder : config.python_path) append(from_home(folder));
  for (const std::string& digest : config.includes) {
    append(fmt::format("{}/includes/{}", cache, digest));
  }
  std::string program = own_program();
  for (int level = 0; level < 2; ++level) program.erase(program.rfind('/'));
  if (::access((program + "/python/muster").c_str(), F_OK) == 0) append(program + "/python");
  const char* inherited = std::getenv("PYTHONPATH");
  std::vector<std::string> added;
  for (const auto& [name, text] : config.environment) {
    if (name == "PYTHONPATH") {
      inherited = text.c_str();
    } else {
      added.push_back(fmt::format("{}={}", name, text));
    }
  }
  if (inherited != nullptr) append(inherited);
  if (!path.empty()) added.push_back("PYTHONPATH=" + path);
  std::vector<std::string> all;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text(*variable);
    const std::string_view name = text.substr(0, text.find('=') + 1);
    const bool replaced = std::any_of(added.begin(), added.end(), [&](const std::string& more) {
      return std::string_view(more).starts_with(name);
    });
    if (!replaced && !name.starts_with("SSH_")) all.emplace_back(text);
  }
  all.insert(all.end(), added.begin(), added.end());
  return all;
}

void check_directory(const std::string& directory) {
  struct stat folder {};
  if (::stat(directory.c_str(), &folder) == 0 && S_ISDIR(folder.st_mode) &&
      ::access(directory.c_str(), X_OK) == 0) {
    return;
  }
  throw std::runtime_error(fmt::format(
      "the working directory {} is not a folder on this node: make it, or say another `directory`",
      directory));
}

// What a node lacked may have been installed meanwhile.
bool is_recent(const std::string& path) {
  constexpr std::time_t kSeconds = 20;
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) return false;
  return std::abs(std::time(nullptr) - file.st_mtime) <= kSeconds;
}

}  // namespace

std::string own_program() {
  std::array<char, PATH_MAX> path{};
  const ssize_t size = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (size <= 0) throw std::runtime_error("cannot read /proc/self/exe: is /proc mounted?");
  return {path.data(), static_cast<std::size_t>(size)};
}

std::optional<PreparedPython> read_environment(const std::string& cache,
                                               const std::string& digest) {
  const std::string path = cache + "/environments/" + digest + "/ready";
  std::ifstream ready(path);
  PreparedPython python;
  if (!std::getline(ready, python.interpreter) || !std::getline(ready, python.version)) return {};
  if (python.interpreter == "none") {
    std::getline(ready, python.lack);
    return is_recent(path) ? std::optional(python) : std::nullopt;
  }
  if (::access(python.interpreter.c_str(), X_OK) != 0) return {};
  return python;
}

pid_t spawn_worker(const AttachConfig& config, const std::string& cache, int control) {
  const std::string directory = from_home(config.directory);
  check_directory(directory);
  const std::vector<std::string> words = worker_arguments(config, cache);
  const std::vector<std::string> variables = worker_environment(config, cache);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, control, kControlDescriptor);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, kLog, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND,
                                     0600);
  ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  ::posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  sigset_t signals;
  ::sigemptyset(&signals);
  ::posix_spawnattr_setsigmask(&attributes, &signals);
  ::sigfillset(&signals);
  ::posix_spawnattr_setsigdefault(&attributes, &signals);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, words.front().c_str(), &actions, &attributes,
                                  pointers_to(words).data(), pointers_to(variables).data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    throw std::runtime_error(
        fmt::format("cannot start {}: {}", words.front(), std::strerror(error)));
  }
  return pid;
}

std::string log_tail() {
  std::ifstream file(kLog, std::ios::binary | std::ios::ate);
  if (!file) return "its log cannot be read";
  const std::streamoff size = file.tellg();
  file.seekg(std::max<std::streamoff>(0, size - kTailBytes));
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  text = last_lines(text);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "its log is empty" : text;
}

}  // namespace muster
