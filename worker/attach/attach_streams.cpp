#include "worker/attach/attach_streams.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "worker/attach/control.hpp"

namespace muster {
namespace {

constexpr std::size_t kMostInput = kMaxControlPacket / 2;

}  // namespace

void say(const std::string& text) { write_line(STDERR_FILENO, "muster: " + text); }

void write_line(int descriptor, const std::string& text) {
  const std::string line = text + "\n";
  [[maybe_unused]] const auto written = ::write(descriptor, line.data(), line.size());
}

bool readable(int descriptor, Time deadline) {
  pollfd event{descriptor, POLLIN, 0};
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_now());
  return ::poll(&event, 1, static_cast<int>(std::max<std::int64_t>(0, left.count()))) > 0;
}

void AttachInput::read() {
  std::array<char, 65536> buffer;
  const ssize_t got = ::read(STDIN_FILENO, buffer.data(), buffer.size());
  if (got > 0) text_.append(buffer.data(), static_cast<std::size_t>(got));
  if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) open_ = false;
  if (text_.size() > kMostInput) open_ = false;
}

std::optional<std::string> AttachInput::line() {
  const std::size_t end = text_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  std::string found = text_.substr(0, end);
  text_.erase(0, end + 1);
  return found;
}

}  // namespace muster
