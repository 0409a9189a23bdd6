#include "worker/attach/control.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <mutex>

namespace muster {
namespace {

constexpr std::size_t kMostConnections = 16;  // only our own user can connect at all
constexpr off_t kMostLogBytes = off_t{1} << 20;
constexpr std::uint64_t kMostEndSeconds = 86'400;

// To the control connection, and to standard error, a file that starts anew when it is full.
class AttachedSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit AttachedSink(Control* control) : control_(control) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t buffer;
    formatter_->format(message, buffer);
    struct stat file {};
    if (::fstat(STDERR_FILENO, &file) == 0 && S_ISREG(file.st_mode) &&
        file.st_size > kMostLogBytes) {
      [[maybe_unused]] const int emptied = ::ftruncate(STDERR_FILENO, 0);
    }
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, buffer.data(), buffer.size());
    if (control_ != nullptr) control_->log({message.payload.data(), message.payload.size()});
  }
  void flush_() override {}

  Control* control_;
};

}  // namespace

int listener_of(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

bool is_own_user(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         peer.uid == ::geteuid();
}

PacketResult receive_packet(int socket, std::string& packet, int flags) {
  const ssize_t size = ::recv(socket, nullptr, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return PacketResult::none;
  if (size <= 0 || static_cast<std::size_t>(size) > kMaxControlPacket) return PacketResult::end;
  packet.resize(static_cast<std::size_t>(size));
  const ssize_t got = ::recv(socket, packet.data(), packet.size(), flags | MSG_DONTWAIT);
  return got == size ? PacketResult::packet : PacketResult::end;
}

void widen(int socket) {
  const int bytes = static_cast<int>(kMaxControlPacket);
  ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

void install_attached_logger(Control* control) {
  auto logger = std::make_shared<spdlog::logger>("worker", std::make_shared<AttachedSink>(control));
  logger->set_level(spdlog::level::info);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l: %v");
  spdlog::set_default_logger(std::move(logger));
}

Control::Control(Descriptor listener) : listener_(std::move(listener)) {
  // Not for runners: as long as this socket lives, so does the worker.
  ::fcntl(listener_.get(), F_SETFD, FD_CLOEXEC);
  ::fcntl(listener_.get(), F_SETFL, O_NONBLOCK);
  // A peer that connects from now on learns of this process, not of the attach that made the
  // socket.
  ::listen(listener_.get(), static_cast<int>(kMostConnections));
  watches_.watch_lasting(listener_.get(), {});
}

Control::~Control() = default;

std::vector<Control::Event> Control::poll(Time now) {
  std::vector<Event> events;
  accept_all();
  for (std::size_t i = 0; i < connections_.size(); ++i) read(*connections_[i], now, events);
  std::erase_if(connections_, [](const auto& connection) { return connection->gone; });
  if (now >= orphaned_at_) {
    orphaned_at_ = kNever;
    events.emplace_back(Orphaned{});
  }
  return events;
}

void Control::accept_all() {
  while (true) {
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return;
    if (!is_own_user(socket.get()) || connections_.size() >= kMostConnections) continue;
    widen(socket.get());
    auto connection = std::make_unique<Connection>();
    connection->socket = Watched(std::move(socket));
    if (!watches_.watch(connection->socket, {})) continue;
    connections_.push_back(std::move(connection));
  }
}

void Control::read(Connection& connection, Time now, std::vector<Event>& events) {
  std::string packet;
  while (!connection.gone) {
    switch (receive_packet(connection.socket.get(), packet, 0)) {
      case PacketResult::packet:
        handle(connection, packet, events);
        break;
      case PacketResult::none:
        return;
      case PacketResult::end:
        connection.gone = true;
        if (current_ == &connection) lose(now, events);
        return;
    }
  }
}

void Control::handle(Connection& connection, std::string_view packet, std::vector<Event>& events) {
  if (packet.starts_with("attach ")) {
    attach(connection, packet.substr(7), events);
  } else if (packet.starts_with("end ")) {
    std::uint64_t seconds = 0;
    std::from_chars(packet.data() + 4, packet.data() + packet.size(), seconds);
    orphaned_at_ = kNever;
    events.emplace_back(End{std::chrono::seconds(std::min(seconds, kMostEndSeconds))});
  } else if (packet == "who") {
    send(connection, fmt::format("ready {}", ::getpid()));
  }
}

void Control::attach(Connection& connection, std::string_view json, std::vector<Event>& events) {
  AttachConfig config;
  try {
    config = parse_attach_config(json);
  } catch (const std::exception& error) {  // another version's
    send(connection, fmt::format("replaced {}", error.what()));
    events.emplace_back(End{kReplacedDrain});
    return;
  }
  if (current_ != nullptr && current_ != &connection) {
    send(*current_, "taken");
    ::shutdown(current_->socket.get(), SHUT_RDWR);
    current_->gone = true;
  }
  current_ = &connection;
  orphaned_at_ = kNever;
  grace_ = config.orphan_grace;
  if (settings_.empty()) settings_ = config.settings;
  const bool fits = settings_ == config.settings && config.version == MUSTER_VERSION;
  // Also for a worker that is replaced: its outcomes are wanted.
  events.emplace_back(
      Attached{std::move(config.endpoint), std::move(config.login), std::move(config.proof)});
  if (fits) {
    send(connection, fmt::format("ready {}", ::getpid()));
    return;
  }
  send(connection, fmt::format("replaced {} its settings differ", ::getpid()));
  events.emplace_back(End{kReplacedDrain});
}

void Control::lose(Time now, std::vector<Event>& events) {
  current_ = nullptr;
  orphaned_at_ = now + grace_;
  events.emplace_back(Lost{});
}

void Control::send(const Connection& connection, std::string_view packet) {
  ::send(connection.socket.get(), packet.data(), packet.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Control::log(std::string_view line) {
  if (current_ == nullptr) return;
  constexpr std::size_t kMostLine = 4096;
  send(*current_, fmt::format("log {}", line.substr(0, kMostLine)));
}

}  // namespace muster
