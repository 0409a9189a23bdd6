// What a benchmark of several processes needs: a private directory for its sockets, and children
// that are exec'd copies of the benchmark itself, told apart by their arguments. Owned by `main` of
// a benchmark; one thread. The destructors end the children and remove the directory.
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace muster::bench {

// A new directory of mode 0700 below $TMPDIR or /tmp, removed with all it holds at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "muster-bench-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), "cannot make " + name);
    }
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A child that runs `program` (a path) with `arguments` (without argv[0]). Start children before
// the first ZeroMQ context, so that a failed start leaves nothing behind.
class ChildProcess {
 public:
  ChildProcess(const std::string& program, const std::vector<std::string>& arguments) {
    std::vector<std::string> words{program};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const int error = posix_spawn(&pid_, program.c_str(), nullptr, nullptr, argv.data(), environ);
    if (error != 0)
      throw std::system_error(error, std::generic_category(), "cannot run " + program);
  }
  ~ChildProcess() {
    kill(pid_, SIGTERM);
    // A child that was stopped or that ignores SIGTERM must not hold up the benchmark.
    for (int attempt = 0; attempt < kGracePolls; ++attempt) {
      if (waitpid(pid_, nullptr, WNOHANG) != 0) return;
      usleep(kGracePollMicroseconds);
    }
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  static constexpr int kGracePolls = 500;
  static constexpr useconds_t kGracePollMicroseconds = 10'000;

  pid_t pid_ = 0;
};

// User and system time that process `pid` (0: the caller) has used up to now, with all its threads:
// what getrusage(2) says at the end of a process, but at any time and to the nanosecond.
inline std::chrono::nanoseconds cpu_time(pid_t pid) {
  clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
  timespec time{};
  if ((pid != 0 && clock_getcpuclockid(pid, &clock) != 0) || clock_gettime(clock, &time) != 0) {
    throw std::runtime_error("process " + std::to_string(pid) + " has ended too early");
  }
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// For a child, first thing: end when the process that started it ends, however that happens.
inline void die_with_parent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
}

}  // namespace muster::bench
