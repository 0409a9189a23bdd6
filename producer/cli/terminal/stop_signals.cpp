#include "producer/cli/terminal/stop_signals.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <stdexcept>
#include <string_view>

namespace muster {
namespace {

constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};

// A handler reaches nothing but statics; all of them are lock-free.
std::atomic<int> received_signal{0};
std::atomic<bool> line_on_terminal{false};
std::array<int, 2> wake_pipe{-1, -1};

void write_to(int file, std::string_view text) {
  [[maybe_unused]] const auto written = ::write(file, text.data(), text.size());
}

void on_stop(int signal) {
  const int error = errno;
  int none = 0;
  if (!received_signal.compare_exchange_strong(none, signal)) {
    if (line_on_terminal) write_to(STDERR_FILENO, "\r\033[K");
    ::_exit(128 + signal);
  }
  write_to(wake_pipe[1], "s");
  errno = error;
}

void on_pipe(int) {}

void install(int signal, void (*handler)(int), int flags) {
  struct sigaction before = {};
  ::sigaction(signal, nullptr, &before);
  if (before.sa_handler == SIG_IGN && signal != SIGPIPE) return;
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

StopSignals::StopSignals() {
  if (::pipe2(wake_pipe.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    throw std::runtime_error("cannot make a pipe: too many open files");
  }
  received_signal = 0;
  for (const int signal : kSignals) install(signal, on_stop, 0);
  install(SIGPIPE, on_pipe, SA_RESTART);
}

StopSignals::~StopSignals() {
  for (const int signal : kSignals) {
    struct sigaction action = {};
    ::sigaction(signal, nullptr, &action);
    if (action.sa_handler == on_stop) ::signal(signal, SIG_DFL);
  }
  ::signal(SIGPIPE, SIG_DFL);
  ::close(wake_pipe[0]);
  ::close(wake_pipe[1]);
  wake_pipe = {-1, -1};
}

int StopSignals::received() const { return received_signal; }

int StopSignals::wake_file() const { return wake_pipe[0]; }

void StopSignals::line_drawn(bool drawn) { line_on_terminal = drawn; }

}  // namespace muster
