#include "common/system/service_notify.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "common/system/descriptor.hpp"

namespace muster {
namespace {

constexpr Duration kRetryAfter = std::chrono::seconds(1);
constexpr std::uint64_t kLongestWatchdogMicroseconds = 1'000'000ULL * 86'400 * 365;

std::string take_variable(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value == nullptr ? "" : value;
  ::unsetenv(name);
  return text;
}

std::optional<std::uint64_t> to_number(const std::string& text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

ServiceManager take_service_manager() {
  ServiceManager manager;
  manager.address = take_variable("NOTIFY_SOCKET");
  const auto microseconds = to_number(take_variable("WATCHDOG_USEC"));
  const std::string watched = take_variable("WATCHDOG_PID");
  const bool is_watched =
      watched.empty() || to_number(watched) == static_cast<std::uint64_t>(::getpid());
  if (microseconds && is_watched) {
    manager.watchdog =
        std::chrono::microseconds(std::min(*microseconds, kLongestWatchdogMicroseconds));
  }
  const bool is_unix = manager.address.starts_with('/') || manager.address.starts_with('@');
  if (!is_unix || manager.address.size() >= sizeof(sockaddr_un::sun_path)) return {};
  return manager;
}

ServiceNotifier::ServiceNotifier(ServiceManager manager) : manager_(std::move(manager)) {
  if (manager_.address.empty()) return;
  if (manager_.watchdog > Duration::zero()) alive_at_ = Time::zero();
  next_deadline_ = Time::zero();
}

void ServiceNotifier::turn(Time now, ServiceState state, std::string_view status) {
  if (manager_.address.empty() || now < retry_at_) return;
  const bool is_alive_due = now >= alive_at_;
  if (state == state_ && status == status_ && !is_alive_due) return;
  std::string lines;
  if (state != state_ && state == ServiceState::ready) lines += "READY=1\n";
  if (state != state_ && state == ServiceState::stopping) lines += "STOPPING=1\n";
  if (is_alive_due) lines += "WATCHDOG=1\n";
  if (status != status_) {
    lines.append("STATUS=").append(status).append("\n");
    std::replace(lines.end() - static_cast<std::ptrdiff_t>(status.size()) - 1, lines.end() - 1,
                 '\n', ' ');
  }
  if (send(lines)) {
    state_ = state;
    status_ = status;
    if (is_alive_due) alive_at_ = now + manager_.watchdog / 2;
    next_deadline_ = alive_at_;
  } else {
    retry_at_ = now + kRetryAfter;
    next_deadline_ = retry_at_;
  }
}

bool ServiceNotifier::send(const std::string& lines) const {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, manager_.address.data(), manager_.address.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const auto length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + manager_.address.size());
  const Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return false;
  const auto sent = ::sendto(socket.get(), lines.data(), lines.size(), MSG_NOSIGNAL,
                             reinterpret_cast<const sockaddr*>(&address), length);
  return sent == static_cast<ssize_t>(lines.size());
}

}  // namespace muster
