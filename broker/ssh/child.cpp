#include "broker/ssh/child.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "broker/ssh/remote.hpp"
#include "common/system/descriptor_limit.hpp"
#include "common/system/pointers.hpp"
#include "common/system/process_end.hpp"

namespace muster {
namespace {

constexpr std::size_t kChunkBytes = 64 * 1024;
constexpr int kCannotRun = 127;
constexpr std::chrono::seconds kKillPatience{1};
constexpr int kLookMilliseconds = 50;

// Standard input is a socket: a write to one that nobody reads can be told not to raise SIGPIPE.
struct Pipe {
  Descriptor read;
  Descriptor write;
  explicit Pipe(bool socket) {
    int ends[2];
    if ((socket ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)
                : pipe2(ends, O_CLOEXEC)) != 0) {
      throw NodeError(NodeError::Kind::passing, "connect",
                      fmt::format("cannot make a pipe: {}", std::strerror(errno)));
    }
    read.reset(ends[0]);
    write.reset(ends[1]);
  }
};

void set_nonblocking(int descriptor) {
  fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
}

// In the child, between fork and exec: only calls that are safe after a fork of threads.
[[noreturn]] void become(char* const* argv, char* const* environment, int in, int out, int error,
                         pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kCannotRun);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(error, STDERR_FILENO);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  restore_descriptor_limit();
  execvpe(argv[0], argv, environment);
  _exit(kCannotRun);
}

std::vector<std::string> c_locale() {
  std::vector<std::string> variables{"LC_ALL=C"};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text(*variable);
    if (!text.starts_with("LC_ALL=") && !text.starts_with("LANGUAGE="))
      variables.emplace_back(text);
  }
  return variables;
}

}  // namespace

Child::Child(const std::vector<std::string>& argv, Output output) : output_(std::move(output)) {
  Pipe in(true);
  Pipe out(false);
  Pipe error(false);
  const std::vector<std::string> variables = c_locale();
  const std::vector<char*> word_pointers = pointers_to(argv);
  const std::vector<char*> variable_pointers = pointers_to(variables);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    become(word_pointers.data(), variable_pointers.data(), in.read.get(), out.write.get(),
           error.write.get(), parent);
  }
  if (pid_ < 0) {
    throw NodeError(NodeError::Kind::passing, "connect",
                    fmt::format("cannot start '{}': {}", argv.front(), std::strerror(errno)));
  }
  process_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  input_ = std::move(in.write);
  output_pipe_ = std::move(out.read);
  error_pipe_ = std::move(error.read);
  for (const Descriptor* pipe : {&input_, &output_pipe_, &error_pipe_})
    set_nonblocking(pipe->get());
}

Child::~Child() {
  if (reap()) return;
  kill(SIGKILL);
  await_end(pid_, kKillPatience);
}

void Child::kill(int number) {
  if (!status_) ::kill(pid_, number);
}

bool Child::reap() {
  if (status_) return true;
  const std::optional<ExitStatus> ended = muster::reap(pid_);
  if (ended) status_ = ended->signal != 0 ? 128 + ended->signal : ended->status;
  return status_.has_value();
}

bool Child::turn(Waker& waker, Deadline deadline) {
  waker.throw_if_cut();
  std::array<pollfd, 5> polled{{{process_.get(), POLLIN, 0},
                                {waker.descriptor(), POLLIN, 0},
                                {output_pipe_.get(), POLLIN, 0},
                                {error_pipe_.get(), POLLIN, 0},
                                {wants_to_write() ? input_.get() : -1, POLLOUT, 0}}};
  // Without a descriptor of the process (there may be none left) it is looked at now and then.
  const int timeout = poll_timeout(deadline);
  const bool blind = !process_ && (timeout < 0 || timeout > kLookMilliseconds);
  poll(polled.data(), polled.size(), blind ? kLookMilliseconds : timeout);
  if (polled[1].revents != 0) waker.drain();
  waker.throw_if_cut();
  if (polled[2].revents != 0) read_some(output_pipe_, false);
  if (polled[3].revents != 0) read_some(error_pipe_, true);
  if (polled[4].revents != 0) write_some();
  if ((process_ && polled[0].revents == 0) || !reap()) return false;
  // What it wrote before it ended; a process that inherited the pipes is not waited for.
  read_some(output_pipe_, false);
  read_some(error_pipe_, true);
  return true;
}

void Child::write_some() {
  if (pending_.empty() && more_) {
    pending_.resize(kChunkBytes);
    pending_.resize(more_(pending_.data(), pending_.size()));
    if (pending_.empty()) more_ = nullptr;
  }
  if (pending_.empty()) {
    if (ends_) input_.reset();
    return;
  }
  const ssize_t sent = ::send(input_.get(), pending_.data(), pending_.size(), MSG_NOSIGNAL);
  if (sent > 0) pending_.erase(0, static_cast<std::size_t>(sent));
  if (sent < 0 && errno != EAGAIN && errno != EINTR) input_.reset();  // it reads no more
}

void Child::read_some(Descriptor& pipe, bool is_error) {
  std::array<char, 16 * 1024> buffer;
  while (pipe) {
    const ssize_t got = read(pipe.get(), buffer.data(), buffer.size());
    if (got > 0) {
      output_({buffer.data(), static_cast<std::size_t>(got)}, is_error);
    } else if (got < 0 && errno == EAGAIN) {
      return;
    } else if (got == 0 || errno != EINTR) {
      pipe.reset();
    }
  }
}

}  // namespace muster
