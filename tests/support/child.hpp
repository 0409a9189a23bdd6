// What a test of whole programs needs: a private folder, and children whose output is captured.
//
// Owner: one test. Threads: the owner's; each Child runs one thread of its own that reads its
// pipes. Nothing here sleeps blindly: every wait is on a condition, with a deadline.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/system/descriptor.hpp"

namespace muster::testing {

// Long enough for a loaded machine and for sanitizers; only a failing test waits for it.
inline constexpr std::chrono::seconds kPatience{60};

// A new folder of mode 0700 with a short path (Unix sockets), removed with all it holds at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = "/tmp/muster-test-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), "cannot make " + name);
    }
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }
  std::string endpoint(std::string_view name) const { return "ipc://" + path(name); }

 private:
  std::string path_;
};

// Looks at `condition` every few milliseconds until it holds; false when it never did.
inline bool wait_until(const std::function<bool()>& condition,
                       std::chrono::nanoseconds patience = kPatience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    poll(nullptr, 0, 5);
  }
  return true;
}

struct Pipe {
  Descriptor read_end;
  Descriptor write_end;
};

inline Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe2");
  }
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

struct ChildOptions {
  // Written to the child's standard input, which then ends.
  std::string input;
  // Added to the environment of the test, as NAME=VALUE.
  std::vector<std::string> environment;
  // Descriptors of the test that the child gets under another number.
  std::vector<std::pair<int, int>> descriptors;
};

// Exit status as a shell says it: 0-255, or 128 + the signal that ended the child.
class Child {
 public:
  // `command`: the program's path (or a name to look up in PATH) and its arguments.
  explicit Child(const std::vector<std::string>& command, const ChildOptions& options = {}) {
    Pipe input = make_pipe();
    Pipe output = make_pipe();
    Pipe error = make_pipe();
    start(command, options, {input.read_end.get(), output.write_end.get(), error.write_end.get()});
    input.read_end.reset();
    output.write_end.reset();
    error.write_end.reset();
    feed(input.write_end, options.input);
    input.write_end.reset();
    output_end_ = std::move(output.read_end);
    error_end_ = std::move(error.read_end);
    reader_ = std::thread([this] { read_all(); });
  }
  // Kills the child, if it still runs, and its reader.
  ~Child() {
    if (!status_) signal(SIGKILL);
    wait();
    stop_.write_end.reset();
    reader_.join();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const {
    if (!status_) kill(pid_, number);
  }

  // The exit status; nothing when the child still runs after `patience`. Once it has ended, all
  // that it wrote is captured.
  std::optional<int> wait(std::chrono::nanoseconds patience = kPatience) {
    if (status_) return status_;
    int status = 0;
    const bool ended = wait_until([&] { return waitpid(pid_, &status, WNOHANG) != 0; }, patience);
    if (!ended) return std::nullopt;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    wait_until([this] { return drained(); }, std::chrono::seconds(5));
    return status_;
  }

  // What it wrote so far.
  std::string output() const {
    const std::lock_guard lock(mutex_);
    return output_;
  }
  std::string error_output() const {
    const std::lock_guard lock(mutex_);
    return error_;
  }

  // Whether one of its streams contains `text` before it ended or `patience` passed.
  bool wait_for_output(std::string_view text, std::chrono::nanoseconds patience = kPatience) {
    const auto seen = [&] {
      return output_.find(text) != std::string::npos || error_.find(text) != std::string::npos;
    };
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return seen() || drained_; });
    return seen();
  }

 private:
  void start(const std::vector<std::string>& command, const ChildOptions& options,
             const std::array<int, 3>& streams) {
    std::vector<std::string> words = command;
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    std::vector<std::string> added = options.environment;
    std::vector<char*> variables;
    for (std::string& entry : added) variables.push_back(entry.data());
    for (char** entry = environ; *entry != nullptr; ++entry) {
      if (!overridden(*entry, added)) variables.push_back(*entry);
    }
    variables.push_back(nullptr);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (int i = 0; i < 3; ++i) {
      posix_spawn_file_actions_adddup2(&actions, streams[static_cast<std::size_t>(i)], i);
    }
    for (const auto& [ours, theirs] : options.descriptors) {
      posix_spawn_file_actions_adddup2(&actions, ours, theirs);
    }
    const int failure =
        posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), variables.data());
    posix_spawn_file_actions_destroy(&actions);
    if (failure != 0) {
      throw std::system_error(failure, std::generic_category(), "cannot run " + command[0]);
    }
  }

  static bool overridden(std::string_view entry, const std::vector<std::string>& added) {
    const std::string_view name = entry.substr(0, entry.find('=') + 1);
    for (const std::string& own : added) {
      if (own.compare(0, name.size(), name) == 0) return true;
    }
    return false;
  }

  // Meant for inputs that fit a pipe's buffer (64 KiB): it blocks otherwise until the child reads.
  static void feed(const Descriptor& pipe, const std::string& text) {
    std::size_t written = 0;
    while (written < text.size()) {
      const auto count = write(pipe.get(), text.data() + written, text.size() - written);
      if (count <= 0) return;  // it does not read its input: not our concern
      written += static_cast<std::size_t>(count);
    }
  }

  bool drained() const {
    const std::lock_guard lock(mutex_);
    return drained_;
  }

  void read_all() {
    std::array<pollfd, 3> items{pollfd{output_end_.get(), POLLIN, 0},
                                pollfd{error_end_.get(), POLLIN, 0},
                                pollfd{stop_.read_end.get(), POLLIN, 0}};
    while (items[0].fd >= 0 || items[1].fd >= 0) {
      if (poll(items.data(), items.size(), -1) < 0 && errno != EINTR) break;
      if (items[2].revents != 0) break;  // a grandchild keeps the pipes open: do not wait for it
      take(items[0], output_);
      take(items[1], error_);
    }
    const std::lock_guard lock(mutex_);
    drained_ = true;
    changed_.notify_all();
  }

  void take(pollfd& item, std::string& text) {
    if (item.fd < 0 || item.revents == 0) return;
    std::array<char, 4096> buffer{};
    const auto count = read(item.fd, buffer.data(), buffer.size());
    if (count <= 0) {
      item.fd = -1;
      return;
    }
    const std::lock_guard lock(mutex_);
    text.append(buffer.data(), static_cast<std::size_t>(count));
    changed_.notify_all();
  }

  pid_t pid_ = 0;
  std::optional<int> status_;
  Descriptor output_end_;
  Descriptor error_end_;
  Pipe stop_ = make_pipe();
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string output_;
  std::string error_;
  bool drained_ = false;
  std::thread reader_;
};

// Runs a command to its end; status -1 when it had to be killed.
struct Finished {
  int status = -1;
  std::string output;
  std::string error_output;
};
inline Finished run_to_end(const std::vector<std::string>& command,
                           const ChildOptions& options = {}) {
  Child child(command, options);
  const auto status = child.wait();
  return {status.value_or(-1), child.output(), child.error_output()};
}

}  // namespace muster::testing
