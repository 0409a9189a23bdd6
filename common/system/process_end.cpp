#include "common/system/process_end.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "common/system/descriptor.hpp"

namespace muster {
namespace {

// Without a descriptor for the process: how often it is looked at.
constexpr int kLookMilliseconds = 2;

using Clock = std::chrono::steady_clock;

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

}  // namespace

std::string describe(ExitStatus status) {
  if (status.signal != 0) {
    return fmt::format("killed by signal {} ({})", status.signal, ::strsignal(status.signal));
  }
  if (status.status < 0) return "ended, and something else took its exit status";
  return fmt::format("exited with status {}", status.status);
}

std::optional<ExitStatus> reap(pid_t process) {
  int status = 0;
  pid_t ended = 0;
  while ((ended = ::waitpid(process, &status, WNOHANG)) < 0 && errno == EINTR) {
  }
  if (ended == 0) return std::nullopt;
  if (ended < 0) return ExitStatus{-1, 0};
  if (WIFSIGNALED(status)) return ExitStatus{-1, WTERMSIG(status)};
  return ExitStatus{WEXITSTATUS(status), 0};
}

bool has_ended(pid_t process) {
  siginfo_t ended{};
  int result = 0;
  while ((result = ::waitid(P_PID, static_cast<id_t>(process), &ended,
                            WEXITED | WNOHANG | WNOWAIT)) < 0 &&
         errno == EINTR) {
  }
  return result < 0 || ended.si_pid == process;
}

std::optional<ExitStatus> await_end(pid_t process, Duration patience) {
  std::optional<ExitStatus> status = reap(process);
  if (status) return status;
  const auto deadline = Clock::now() + patience;
  const Descriptor exit_watch(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
  do {
    pollfd exit{exit_watch.get(), POLLIN, 0};
    const int left = milliseconds_until(deadline);
    ::poll(&exit, 1, exit_watch ? left : std::min(left, kLookMilliseconds));
    status = reap(process);
  } while (!status && Clock::now() < deadline);
  return status;
}

}  // namespace muster
