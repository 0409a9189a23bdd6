#include "worker/system/spawn.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "common/system/descriptor_limit.hpp"

// clone() by the name under which no sanitizer wraps it: the wrapper of the thread sanitizer would
// keep the books of a fork in the child, on our memory.
extern "C" int __clone(int (*)(void*), void*, int, void*, ...);  // NOLINT: its name

namespace muster {
namespace {

constexpr std::size_t kStackBytes = std::size_t{64} << 10;
constexpr std::size_t kTailBytes = 4096;
constexpr int kTailLines = 20;
constexpr std::size_t kMostFoundPrograms = 1000;
constexpr Duration kKillPatience = std::chrono::seconds(1);

enum class Step { setup, directory, execute };

// What the child needs, made before it exists: it must not allocate.
struct ChildPlan {
  std::vector<std::string> candidates;  // paths to try
  std::vector<char*> argv;
  std::vector<std::string> added_environment;
  std::vector<char*> environment;
  const char* directory = nullptr;
  std::array<int, 4> descriptors{};
  std::optional<rlimit> descriptor_limit;  // to give back
  pid_t parent = 0;
  Step step = Step::setup;
  int error = 0;
  std::size_t executed = 0;  // the candidate that became the program
};

// Where each program was found, as a shell remembers it: a long PATH costs a failed system call per
// folder and start. A program that moved is searched again.
struct FoundPrograms {
  std::string path;  // the PATH that all entries are of
  std::unordered_map<std::string, std::string> files;
};

// Runs in the child, on our memory. Raw system calls only: a sanitizer's wrappers keep books in
// that memory, which are the parent's.
__attribute__((no_sanitize("address", "undefined", "thread"))) int run_child(void* argument) {
  auto& plan = *static_cast<ChildPlan*>(argument);
  ::syscall(SYS_setsid);
  ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::syscall(SYS_getppid) != plan.parent) ::syscall(SYS_exit, 127);
  for (int target = 0; target < static_cast<int>(plan.descriptors.size()); ++target) {
    const int source = plan.descriptors[static_cast<std::size_t>(target)];
    if (source < 0) continue;
    const long done = source == target ? ::syscall(SYS_fcntl, target, F_SETFD, 0)
                                       : ::syscall(SYS_dup3, source, target, 0);
    if (done < 0) {
      plan.error = errno;
      ::syscall(SYS_exit, 127);
    }
  }
  if (plan.descriptor_limit) {
    ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &*plan.descriptor_limit, nullptr);
  }
  struct {  // the kernel's sigaction
    void (*handler)(int);
    unsigned long flags, restorer, mask;
  } standard{};
  ::syscall(SYS_rt_sigaction, SIGPIPE, &standard, nullptr, sizeof standard.mask);
  const unsigned long no_signals = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, nullptr, sizeof no_signals);
  plan.step = Step::directory;
  if (plan.directory != nullptr && ::syscall(SYS_chdir, plan.directory) != 0) {
    plan.error = errno;
    ::syscall(SYS_exit, 127);
  }
  plan.step = Step::execute;
  int error = ENOENT;
  for (const std::string& path : plan.candidates) {
    plan.executed = static_cast<std::size_t>(&path - plan.candidates.data());
    ::syscall(SYS_execve, path.c_str(), plan.argv.data(), plan.environment.data());
    if (errno != ENOENT && errno != ENOTDIR) error = errno;  // a found but unusable one says more
  }
  plan.error = error;
  ::syscall(SYS_exit, 127);
  return 127;
}

// The name a variable assignment starts with, and the '='.
std::string_view name_of_variable(std::string_view assignment) {
  const std::size_t end = assignment.find('=');
  return end == std::string_view::npos ? assignment : assignment.substr(0, end + 1);
}

void plan_environment(const SpawnRequest& request, ChildPlan& plan) {
  for (const auto& [name, text] : request.environment) {
    plan.added_environment.push_back(fmt::format("{}={}", name, text));
  }
  for (char** variable = environ; *variable != nullptr; ++variable) {
    bool replaced = false;
    for (const std::string& added : plan.added_environment) {
      replaced = replaced || name_of_variable(added) == name_of_variable(*variable);
    }
    if (!replaced) plan.environment.push_back(*variable);
  }
  for (std::string& added : plan.added_environment) plan.environment.push_back(added.data());
  plan.environment.push_back(nullptr);
}

FoundPrograms& found_programs() {
  static thread_local FoundPrograms instance;
  return instance;
}

std::vector<std::string> find_candidates(const SpawnRequest& request, const ChildPlan& plan) {
  const std::string& program = request.argv.front();
  if (program.find('/') != std::string::npos) return {program};
  std::string_view path = "/usr/local/bin:/usr/bin:/bin";
  for (const char* variable : plan.environment) {
    if (variable != nullptr && std::strncmp(variable, "PATH=", 5) == 0) path = variable + 5;
  }
  FoundPrograms& found = found_programs();
  if (found.path != path || found.files.size() > kMostFoundPrograms)
    found = {std::string(path), {}};
  std::vector<std::string> candidates;
  if (const auto file = found.files.find(program); file != found.files.end()) {
    candidates.push_back(file->second);
  }
  while (true) {
    const std::size_t end = path.find(':');
    const std::string_view folder = path.substr(0, end);
    candidates.push_back(fmt::format("{}/{}", folder.empty() ? "." : folder, program));
    if (end == std::string_view::npos) return candidates;
    path.remove_prefix(end + 1);
  }
}

std::string explain(const SpawnRequest& request, const ChildPlan& plan) {
  const char* reason = ::strerror(plan.error);
  if (plan.step == Step::directory) {
    return fmt::format(
        "cannot enter directory '{}': {}; it must exist on the node that runs the "
        "command",
        request.directory, reason);
  }
  const std::string& program = request.argv.front();
  if (plan.step == Step::setup) return fmt::format("cannot set up '{}': {}", program, reason);
  if (plan.error == ENOENT && program.find('/') == std::string::npos) {
    return fmt::format(
        "cannot start '{}': not found in PATH of this worker; install it there or "
        "give its full path",
        program);
  }
  const char* advice = "";
  if (plan.error == ENOENT) advice = "; the file (or the interpreter it names) is not on this node";
  if (plan.error == EACCES) advice = "; make it executable (chmod +x) for the worker's user";
  if (plan.error == ENOEXEC) advice = "; a script needs a first line like #!/bin/sh";
  if (plan.error == E2BIG) advice = "; pass long data through its input instead of arguments";
  return fmt::format("cannot start '{}': {}{}", program, reason, advice);
}

}  // namespace

Spawned spawn(const SpawnRequest& request) {
  ChildPlan plan;
  plan.parent = ::getpid();
  plan.descriptor_limit = original_descriptor_limit();
  plan.descriptors = {request.input, request.output, request.error_output, request.link};
  for (const std::string& word : request.argv) plan.argv.push_back(const_cast<char*>(word.c_str()));
  plan.argv.push_back(nullptr);
  plan_environment(request, plan);
  plan.candidates = find_candidates(request, plan);
  if (!request.directory.empty()) plan.directory = request.directory.c_str();

  alignas(64) static thread_local std::array<char, kStackBytes> stack;
  Spawned child;
  int exit_watch = -1;
  const pid_t pid = ::__clone(run_child, stack.data() + stack.size(),
                              CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &exit_watch);
  if (pid < 0) {
    child.exhausted = is_exhaustion(errno);
    child.failure =
        fmt::format("cannot start '{}': {}; the node is at its limit of processes or memory",
                    request.argv.front(), ::strerror(errno));
    return child;
  }
  child.pid = pid;
  child.exit_watch = Descriptor(exit_watch);
  if (plan.error == 0 && plan.candidates.size() > 1) {
    found_programs().files[request.argv.front()] = plan.candidates[plan.executed];
  }
  if (plan.error != 0) {
    await_end(pid, kKillPatience);  // it is exiting
    child = {};
    child.exhausted = plan.step == Step::execute && is_exhaustion(plan.error);
    child.failure = explain(request, plan);
  }
  return child;
}

std::optional<ExitStatus> kill_group(pid_t child) {
  ::kill(-child, SIGKILL);
  return await_end(child, kKillPatience);
}

Pipe make_pipe() {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return {};
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);  // not the writing end: the child would inherit that
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

std::string last_lines(std::string_view text) {
  if (text.size() > kTailBytes) text.remove_prefix(text.size() - kTailBytes);
  std::size_t begin = text.size();
  if (begin > 0 && text.back() == '\n') --begin;
  for (int line = 0; line < kTailLines && begin > 0; ++line) {
    const std::size_t found = text.rfind('\n', begin - 1);
    if (found == std::string_view::npos) return std::string(text);
    begin = found;
    if (line == kTailLines - 1) return std::string(text.substr(found + 1));
  }
  return std::string(text);
}

}  // namespace muster
