#include "worker/executors/python.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <muster/shared.hpp>

#include "worker/system/clock.hpp"
#include "worker/system/spawn.hpp"

namespace muster {
namespace {

constexpr Duration kProbePatience = std::chrono::seconds(10);
constexpr std::size_t kMostAnswer = std::size_t{64} << 10;

constexpr const char* kInstall =
    "install the Python package `muster` of version " MUSTER_VERSION
    " for that interpreter, name another one with --python PATH, or none with --python none";

struct Answer {
  bool in_time = false;
  ExitStatus status;
  std::string output;
};

// Reads until the program closed its output and ended, or the time is up.
Answer hear(const Spawned& child, const Descriptor& pipe) {
  Answer answer;
  const Time deadline = steady_now() + kProbePatience;
  bool open = true;
  while (!answer.in_time && steady_now() < deadline) {
    std::array<pollfd, 2> events{pollfd{child.exit_watch.get(), POLLIN, 0},
                                 pollfd{open ? pipe.get() : -1, POLLIN, 0}};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_now());
    ::poll(events.data(), events.size(), static_cast<int>(left.count()));
    answer.in_time = events[0].revents != 0;
    std::array<char, 4096> buffer;
    ssize_t got = 1;
    while (open && got > 0 && answer.output.size() < kMostAnswer) {
      got = ::read(pipe.get(), buffer.data(), buffer.size());
      if (got > 0) answer.output.append(buffer.data(), static_cast<std::size_t>(got));
      open = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
    }
  }
  answer.status = kill_group(child.pid).value_or(ExitStatus{-1, SIGKILL});
  return answer;
}

// Whether the text is a version like "3.11".
bool is_version(const std::string& text) {
  const auto digit = [](unsigned char byte) { return std::isdigit(byte) != 0; };
  const auto dot = std::find(text.begin(), text.end(), '.');
  return dot != text.begin() && dot != text.end() && dot + 1 != text.end() &&
         std::all_of(text.begin(), dot, digit) && std::all_of(dot + 1, text.end(), digit);
}

// Its version, from its own mouth. Throws PythonError.
std::string probe(const std::string& interpreter) {
  const Descriptor no_input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Pipe output = make_pipe();
  const Spawned child = spawn({{interpreter, "-m", "muster.runner", "--version"},
                               {},
                               "",
                               no_input.get(),
                               output.write.get(),
                               output.write.get(),
                               -1});
  output.write.reset();
  if (!child.failure.empty()) throw PythonError(child.failure + "; " + kInstall);
  const Answer answer = hear(child, output.read);
  if (!answer.in_time) {
    throw PythonError(fmt::format("`{} -m muster.runner --version` gave no answer within 10 s; {}",
                                  interpreter, kInstall));
  }
  std::string last = answer.output.substr(0, answer.output.find_last_not_of(" \r\n") + 1);
  last.erase(0, last.rfind('\n') + 1);
  const std::size_t space = last.find(' ');
  std::string version = last.substr(0, space);
  if (answer.status.status != 0 || space == std::string::npos || !is_version(version)) {
    throw PythonError(fmt::format("`{} -m muster.runner --version` {}: {}; {}", interpreter,
                                  describe(answer.status), last, kInstall));
  }
  if (last.substr(space + 1) != MUSTER_VERSION) {
    throw PythonError(fmt::format("{} has muster {}, this worker is muster {}; {}", interpreter,
                                  last.substr(space + 1), MUSTER_VERSION, kInstall));
  }
  return version;
}

}  // namespace

Python find_python(const std::string& asked, const std::string& version) {
  if (asked == "none") return {};
  const std::string interpreter = asked.empty() ? "python3" : asked;
  if (!version.empty()) {
    if (!is_version(version)) {
      throw PythonError("--python-version must look like 3.11, not '" + version + "'");
    }
    return {interpreter, version};
  }
  try {
    return {interpreter, probe(interpreter)};
  } catch (const PythonError& error) {
    if (!asked.empty()) throw PythonError(std::string("--python: ") + error.what());
    spdlog::info("no python functions: {}", error.what());
    return {};
  }
}

std::vector<std::pair<std::string, std::string>> runner_environment(std::uint32_t slots,
                                                                    std::uint32_t cores,
                                                                    const std::string& node) {
  const std::string share = std::to_string(std::max(1U, cores / slots));
  std::vector<std::pair<std::string, std::string>> environment = {{kSlotCoresVariable, share},
                                                                  {kNodeVariable, node}};
  const auto limit = [&](const char* name) {
    if (std::getenv(name) == nullptr) environment.emplace_back(name, share);
  };
  std::for_each(kThreadVariables.begin(), kThreadVariables.end(), limit);
  limit(kJoblibCoresVariable);
  return environment;
}

RunnerCommand python_runner(const Python& python, std::uint32_t threads,
                            std::uint64_t max_result_bytes) {
  return {{python.interpreter, "-m", "muster.runner", "--threads", std::to_string(threads),
           "--max-result", std::to_string(max_result_bytes)},
          {}};
}

}  // namespace muster
