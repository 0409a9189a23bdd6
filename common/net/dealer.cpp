// The side of producers and workers: one ZeroMQ DEALER and the monitor of its connection.
#include <fmt/format.h>
#include <zmq.h>

#include <atomic>
#include <cstring>
#include <variant>
#include <zmq.hpp>

#include "common/net/frames.hpp"
#include "common/net/transport.hpp"

namespace muster {
namespace {

constexpr int kRefusedEvents =
    ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;

void log_in(zmq::socket_t& socket, const PlainLogin& login) {
  try {
    socket.set(zmq::sockopt::plain_username, login.user);
    socket.set(zmq::sockopt::plain_password, login.password);
    // The next one to listen there may be somebody else: whatever waits is not for them.
    socket.set(zmq::sockopt::immediate, true);
  } catch (const zmq::error_t&) {
    throw TransportError("user and password of a login need 1 to 255 bytes each");
  }
}

void log_in(zmq::socket_t& socket, const CurveLogin& login) {
  transport::check_curve();
  const auto set = [&socket](auto option, const std::string& key, const char* what) {
    try {
      socket.set(option, key);
    } catch (const zmq::error_t&) {
      throw TransportError(
          fmt::format("{} is not a Z85 text of 40 characters; `muster keygen` makes keys", what));
    }
  };
  set(zmq::sockopt::curve_serverkey, login.server_key, "the broker's public key");
  set(zmq::sockopt::curve_publickey, login.public_key, "the own public key");
  set(zmq::sockopt::curve_secretkey, login.secret_key, "the own secret key");
}

void log_in(zmq::socket_t&, const std::monostate&) {}

}  // namespace

struct Dealer::Socket {
  zmq::socket_t zmq;
  zmq::socket_t monitor;
};

Dealer::Dealer(TransportContext& context, const std::string& endpoint, const Login& login)
    : socket_(std::make_unique<Socket>(
          Socket{zmq::socket_t(context.native(), zmq::socket_type::dealer),
                 zmq::socket_t(context.native(), zmq::socket_type::pair)})) {
  check_endpoint(endpoint, login);
  zmq::socket_t& socket = socket_->zmq;
  transport::set_common_options(socket);
  socket.set(zmq::sockopt::reconnect_ivl, 50);
  socket.set(zmq::sockopt::reconnect_ivl_max, 2'000);
  if (login.index() != 0) transport::set_remote_options(socket, endpoint);
  std::visit([&socket](const auto& kind) { log_in(socket, kind); }, login);
  // Never a name again: libzmq lets go of one some time after its socket was closed.
  static std::atomic<std::uint64_t> last_monitor{0};
  const std::string monitor_name = fmt::format("inproc://muster-monitor-{}", ++last_monitor);
  const int watched = zmq_socket_monitor(socket.handle(), monitor_name.c_str(),
                                         ZMQ_EVENT_HANDSHAKE_SUCCEEDED | kRefusedEvents);
  if (watched != 0) {
    throw TransportError(fmt::format("cannot watch the connection to '{}': {}", endpoint,
                                     zmq_strerror(zmq_errno())));
  }
  socket_->monitor.connect(monitor_name);
  try {
    socket.connect(endpoint);
  } catch (const zmq::error_t& error) {
    throw TransportError(fmt::format("cannot connect to '{}': {}", endpoint, error.what()));
  }
}
Dealer::~Dealer() { zmq_socket_monitor(socket_->zmq.handle(), nullptr, 0); }

SendResult Dealer::send(Frames frames) {
  return transport::send_all(socket_->zmq, std::move(frames));
}

std::optional<Frames> Dealer::receive() {
  zmq::message_t first;
  if (!socket_->zmq.recv(first, zmq::recv_flags::dontwait)) return std::nullopt;
  Frames frames;
  transport::receive_rest(socket_->zmq, std::move(first), frames);
  return frames;
}

// A descriptor tells changes only, and nothing at all of a socket that nobody has read yet: without
// this look the first connection might never be noticed.
bool Dealer::has_input() {
  if (!was_connected_) read_monitor();
  const bool has_message = look_for_message();
  return connected_ || refused_ || has_message;
}

bool Dealer::look_for_message() {
  return (socket_->zmq.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0;
}

// Each event is a frame with its number (16 bits) and value, and one with the address.
void Dealer::read_monitor() {
  zmq::message_t frame;
  while (socket_->monitor.recv(frame, zmq::recv_flags::dontwait)) {
    if (!frame.more()) continue;
    std::uint16_t event = 0;
    std::memcpy(&event, frame.data(), sizeof event);
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) connected_ = was_connected_ = true;
    if ((event & kRefusedEvents) != 0) refused_ = true;
  }
}

bool Dealer::take_connected() {
  read_monitor();
  // The socket learns of the connection, too, before the first send.
  if (connected_) look_for_message();
  return std::exchange(connected_, false);
}

bool Dealer::take_refused() {
  read_monitor();
  return std::exchange(refused_, false);
}

void Dealer::set_linger(std::chrono::milliseconds time) {
  socket_->zmq.set(zmq::sockopt::linger, static_cast<int>(time.count()));
}

void* Dealer::native_socket() { return socket_->zmq.handle(); }
void* Dealer::native_monitor() { return socket_->monitor.handle(); }
int Dealer::descriptor() { return socket_->zmq.get(zmq::sockopt::fd); }
int Dealer::monitor_descriptor() { return socket_->monitor.get(zmq::sockopt::fd); }

}  // namespace muster
