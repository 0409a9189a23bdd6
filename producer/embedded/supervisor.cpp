#include "producer/embedded/supervisor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <muster/outcome.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "common/system/pointers.hpp"

namespace muster::detail {
namespace {

constexpr std::size_t kTailBytes = 4096;  // of standard error, for the message of an Error
constexpr std::chrono::milliseconds kLongestPause{5'000};  // before a child is started again
constexpr std::chrono::seconds kLivedWell{10};  // a child that lived so long is restarted at once
constexpr std::chrono::milliseconds kStep{5};
constexpr int kCannotStart = 2;  // exit status of our programs

Error unusable(const std::string& what, int error) {
  return Error(ErrorCode::unusable, "unusable", fmt::format("{}: {}", what, std::strerror(error)));
}

std::pair<Descriptor, Descriptor> make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw unusable("cannot make a pipe", errno);
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

std::string how_it_ended(ExitStatus status) {
  if (status.signal != 0) return fmt::format("was ended by signal {}", status.signal);
  if (status.status < 0) return "ended, and something else in this program took its exit status";
  return fmt::format("ended with status {}", status.status);
}

// This process's environment with `added` in place of what has the same names, as NAME=VALUE.
std::vector<std::string> merged_environment(const Supervisor::Environment& added) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const bool replaced = std::any_of(added.begin(), added.end(), [&](const auto& variable) {
      return text.substr(0, text.find('=')) == variable.first;
    });
    if (!replaced) merged.emplace_back(text);
  }
  for (const auto& [name, content] : added) {
    merged.push_back(name);
    merged.back().append("=").append(content);
  }
  return merged;
}

// What posix_spawn applies between fork and exec.
class SpawnPlan {
 public:
  SpawnPlan(int errors, int lifeline) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions_, errors, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, STDERR_FILENO, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, lifeline, Supervisor::kLifelineDescriptor);
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setpgroup(&attributes_, 0);  // a terminal's Ctrl-C is not for the children
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  pid_t start(const std::vector<std::string>& argv,
              const std::vector<std::string>& environment) const {
    const std::vector<char*> words = pointers_to(argv);
    const std::vector<char*> variables = pointers_to(environment);
    pid_t process = -1;
    const int error =
        posix_spawn(&process, words[0], &actions_, &attributes_, words.data(), variables.data());
    if (error != 0) throw unusable(fmt::format("cannot start '{}'", argv[0]), error);
    return process;
  }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

}  // namespace

Supervisor::Supervisor(const Environment& environment)
    : environment_(merged_environment(environment)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      over_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wake_ || !over_) throw unusable("cannot make an eventfd", errno);
  std::tie(lifeline_read_, lifeline_write_) = make_pipe();
}

Supervisor::~Supervisor() {
  end_children();
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  thread_.join();
}

void Supervisor::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

void Supervisor::start(std::vector<std::string> argv) {
  const std::lock_guard lock(mutex_);
  Child& child = children_.emplace_back();
  child.argv = std::move(argv);
  spawn(child);
  wake();  // the relay looks at this one too
}

void Supervisor::spawn(Child& child) {
  auto [read_end, write_end] = make_pipe();
  child.process = SpawnPlan(write_end.get(), lifeline_read_.get()).start(child.argv, environment_);
  child.errors = std::move(read_end);
  fcntl(child.errors.get(), F_SETFL, O_NONBLOCK);
  child.start_at = Clock::now();
}

void Supervisor::run() {
  thread_ = std::thread([this] { relay(); });
}

void Supervisor::keep_alive(Keep keep) {
  const std::lock_guard lock(mutex_);
  keep_ = keep;
  keep_alive_ = true;
}

void Supervisor::set_grace(std::chrono::milliseconds grace) {
  const std::lock_guard lock(mutex_);
  grace_ = grace;
}

std::string Supervisor::obituary() const {
  const std::lock_guard lock(mutex_);
  for (const Child& child : children_) {
    if (child.process != -1) continue;
    const std::string name = child.argv[0].substr(child.argv[0].rfind('/') + 1);
    return fmt::format("{} {}{}{}", name, how_it_ended(child.status),
                       child.tail.empty() ? "" : ": ", child.tail);
  }
  return "";
}

bool Supervisor::ended_well() const {
  const std::lock_guard lock(mutex_);
  return std::all_of(children_.begin(), children_.end(), [](const Child& child) {
    return child.process != -1 || child.status.status == 0;
  });
}

void Supervisor::relay() {
  std::vector<pollfd> items;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    items.assign(1, {wake_.get(), POLLIN, 0});
    for (const Child& child : children_) items.push_back({child.errors.get(), POLLIN, 0});
    // One that closed its pipe is about to end.
    const bool someone_ended = std::any_of(
        children_.begin(), children_.end(),
        [](const Child& child) { return child.process == -1 || child.errors.get() < 0; });
    lock.unlock();
    // A child that ends closes its pipe, unless a grandchild holds it: look once a second anyway.
    poll(items.data(), items.size(), someone_ended ? 20 : 1000);
    lock.lock();
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
    for (Child& child : children_) {
      read_errors(child);
      reap(child);
    }
    restart_ended();
  }
}

void Supervisor::read_errors(Child& child) {
  std::array<char, 4096> buffer{};
  while (child.errors.get() >= 0) {
    const ssize_t got = ::read(child.errors.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return;
    if (got == 0) {
      child.errors.reset();
      return;
    }
    const auto size = static_cast<std::size_t>(got);
    child.tail.append(buffer.data(), size);
    if (child.tail.size() > kTailBytes) child.tail.erase(0, child.tail.size() - kTailBytes);
    if (!keep_alive_) continue;
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, buffer.data(), size);
  }
}

void Supervisor::reap(Child& child) {
  if (child.process == -1) return;
  const std::optional<ExitStatus> status = muster::reap(child.process);
  if (!status) return;
  child.status = *status;
  read_errors(child);  // its last words
  child.process = -1;
  const auto now = Clock::now();
  if (now - child.start_at > kLivedWell) {
    child.pause = std::chrono::milliseconds(100);
    child.quick_deaths = 0;
  }
  ++child.quick_deaths;
  child.start_at = now + child.pause;
  child.pause = std::min(child.pause * 2, kLongestPause);
}

// Whether the child that ended is to be started again.
void Supervisor::consider(Child& child) {
  const int status = child.status.signal == 0 ? child.status.status : -1;
  const bool too_often =
      keep_.most_quick_deaths > 0 && child.quick_deaths > keep_.most_quick_deaths;
  child.stays_dead = too_often || (keep_.only_crashed && (status == 0 || status == kCannotStart));
  if (!child.stays_dead) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(over_.get(), &one, sizeof one);
}

void Supervisor::restart_ended() {
  if (!keep_alive_ || stopping_ || lifeline_write_.get() < 0) return;
  for (Child& child : children_) {
    if (child.process != -1 || child.stays_dead) continue;
    consider(child);
    if (child.stays_dead || Clock::now() < child.start_at) continue;
    try {
      child.tail.clear();
      spawn(child);
    } catch (const Error&) {
      child.start_at = Clock::now() + kLongestPause;  // out of processes or memory: later
    }
  }
}

void Supervisor::end_children() {
  auto deadline = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    lifeline_write_.reset();
    deadline += grace_;
  }
  bool killed = false;
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      bool all_ended = true;
      for (Child& child : children_) {
        read_errors(child);
        reap(child);
        all_ended = all_ended && child.process == -1;
      }
      if (all_ended) return;
      if (!killed && Clock::now() > deadline) {
        killed = true;
        for (const Child& child : children_) {
          if (child.process != -1) kill(-child.process, SIGKILL);
        }
      }
    }
    std::this_thread::sleep_for(kStep);
  }
}

}  // namespace muster::detail
