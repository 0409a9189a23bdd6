#include "tests/system/cli_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>

namespace muster::test {
namespace {

using Clock = std::chrono::steady_clock;

void close_file(int& file) {
  if (file >= 0) ::close(file);
  file = -1;
}

std::array<int, 2> make_pipe() {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  return ends;
}

// In the child; the test is single-threaded, so everything is allowed here.
[[noreturn]] void execute(const Process::Setup& setup) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_DFL);
  for (const auto& [name, value] : setup.environment) ::setenv(name.c_str(), value.c_str(), 1);
  if (!setup.directory.empty() && ::chdir(setup.directory.c_str()) != 0) ::_exit(126);
  if (!setup.output_file.empty()) {
    const int file = ::open(setup.output_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ::dup2(file, STDOUT_FILENO);
  }
  std::vector<char*> words;
  for (const auto& word : setup.argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execvp(words[0], words.data());
  ::_exit(127);
}

// False: the end of the file, which then is closed.
bool read_some(int& file, std::string& text) {
  std::array<char, 65536> chunk;
  const auto size = ::read(file, chunk.data(), chunk.size());
  if (size < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (size <= 0) {  // a terminal reports EIO at its end
    close_file(file);
    return false;
  }
  text.append(chunk.data(), static_cast<std::size_t>(size));
  return true;
}

}  // namespace

bool wait_until(const std::function<bool()>& condition) {
  const auto end = Clock::now() + kDeadline;
  while (!condition()) {
    if (Clock::now() > end) return false;
    ::poll(nullptr, 0, 10);  // the pace of asking, not a wait for something
  }
  return true;
}

Process::Process(const Setup& setup) {
  ::signal(SIGPIPE, SIG_IGN);  // a program may end before it read all we type
  if (setup.terminal) {
    winsize size{24, 80, 0, 0};
    id_ = ::forkpty(&input_, nullptr, nullptr, &size);
    if (id_ == 0) execute(setup);
    output_file_ = ::dup(input_);
    return;
  }
  const auto input = make_pipe();
  const auto output = make_pipe();
  const auto error = make_pipe();
  id_ = ::fork();
  if (id_ == 0) {
    ::setpgid(0, 0);
    ::dup2(input[0], STDIN_FILENO);
    ::dup2(output[1], STDOUT_FILENO);
    ::dup2(error[1], STDERR_FILENO);
    execute(setup);
  }
  ::setpgid(id_, id_);
  ::close(input[0]);
  ::close(output[1]);
  ::close(error[1]);
  input_ = input[1];
  output_file_ = output[0];
  error_file_ = error[0];
}

Process::~Process() {
  if (!waited_) {
    ::kill(-id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
  }
  close_file(input_);
  close_file(output_file_);
  close_file(error_file_);
}

void Process::type(const std::string& text) {
  std::size_t done = 0;
  while (done < text.size() && input_ >= 0) {
    const auto size = ::write(input_, text.data() + done, text.size() - done);
    if (size < 0 && errno != EINTR) return;
    if (size > 0) done += static_cast<std::size_t>(size);
  }
}

void Process::close_input() { close_file(input_); }

void Process::close_output() { close_file(output_file_); }

// False: both streams have ended.
bool Process::pump(std::chrono::milliseconds timeout) {
  if (output_file_ < 0 && error_file_ < 0) return false;
  std::array<pollfd, 2> entries{pollfd{output_file_, POLLIN, 0}, pollfd{error_file_, POLLIN, 0}};
  ::poll(entries.data(), entries.size(), static_cast<int>(timeout.count()));
  if (entries[0].revents != 0) read_some(output_file_, output_);
  if (entries[1].revents != 0) read_some(error_file_, error_output_);
  return true;
}

bool Process::wait_for(const std::string& text, const std::string& where) {
  const auto end = Clock::now() + kDeadline;
  while (where.find(text) == std::string::npos) {
    if (Clock::now() > end || !pump(std::chrono::milliseconds(100))) break;
  }
  return where.find(text) != std::string::npos;
}

bool Process::wait_for_output(const std::string& text) { return wait_for(text, output_); }

bool Process::wait_for_error_output(const std::string& text) {
  return wait_for(text, error_output_);
}

void Process::send(int signal) const { ::kill(id_, signal); }

void Process::send_to_group(int signal) const { ::kill(-id_, signal); }

Ended Process::finish() {
  const auto end = Clock::now() + kDeadline;
  int status = 0;
  bool ended = false;
  while (Clock::now() < end) {
    const bool open = pump(std::chrono::milliseconds(ended ? 0 : 50));
    if (!ended && ::waitpid(id_, &status, WNOHANG) == id_) {
      ended = waited_ = true;
      continue;
    }
    if (ended && !open) break;
    if (!open) ::poll(nullptr, 0, 10);
  }
  if (!ended) {
    ::kill(-id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
    waited_ = true;
    return {-1, output_, error_output_ + "(no end before the deadline)"};
  }
  const int shell_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return {shell_status, output_, error_output_};
}

Ended run_process(const Process::Setup& setup, const std::string& input) {
  Process process(setup);
  process.type(input);
  if (!setup.terminal) process.close_input();
  return process.finish();
}

}  // namespace muster::test
