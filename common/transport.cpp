#include "common/transport.hpp"

#include <fmt/format.h>
#include <sys/un.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <string_view>
#include <zmq.hpp>

#include "common/limits.hpp"
#include "common/time.hpp"

namespace muster {
namespace {

// Safety net only: flow control is the protocol's credit. A peer with this many unread messages
// does not read at all.
constexpr int kHighWaterMark = 20'000;

// Frames up to this size are copied out of libzmq: its small messages pin an 8 KiB receive buffer.
constexpr std::size_t kCopyBelowBytes = std::size_t{32} << 10;

constexpr std::size_t kAutomaticIdBytes = 5;

void set_common_options(zmq::socket_t& socket) {
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::sndhwm, kHighWaterMark);
  socket.set(zmq::sockopt::rcvhwm, kHighWaterMark);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(limits::kMaxPayloadBytes));
  socket.set(zmq::sockopt::handshake_ivl, 10'000);
  socket.set(zmq::sockopt::backlog, 4096);
}

Bytes to_bytes(zmq::message_t&& frame) {
  if (frame.size() < kCopyBelowBytes) return Bytes::copy(frame.data(), frame.size());
  const auto owner = std::make_shared<zmq::message_t>(std::move(frame));
  const auto* begin = static_cast<const std::byte*>(owner->data());
  return {owner, {begin, owner->size()}};
}

zmq::message_t to_frame(Bytes&& bytes) {
  if (bytes.size() < kCopyBelowBytes) return {bytes.data(), bytes.size()};
  auto keeper = std::make_unique<Bytes>(std::move(bytes));
  void* data = const_cast<std::byte*>(keeper->data());  // libzmq never writes to it
  const std::size_t size_bytes = keeper->size();
  return {data, size_bytes, [](void*, void* hint) { delete static_cast<Bytes*>(hint); },
          keeper.release()};
}

// Sends every frame; the first may be refused, the others of one message then never are.
SendResult send_all(zmq::socket_t& socket, Frames&& frames) {
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const bool more = i + 1 < frames.size();
    const auto flags =
        (more ? zmq::send_flags::sndmore : zmq::send_flags::none) | zmq::send_flags::dontwait;
    if (!socket.send(to_frame(std::move(frames[i])), flags)) return SendResult::full;
  }
  return SendResult::sent;
}

// Appends the remaining frames of the message that has begun.
void receive_rest(zmq::socket_t& socket, zmq::message_t&& first, Frames& frames) {
  zmq::message_t frame = std::move(first);
  while (true) {
    const bool more = frame.more();
    // Too many frames: keep counting them out so that the decoder refuses the message.
    if (frames.size() <= limits::kMaxFrames) frames.push_back(to_bytes(std::move(frame)));
    if (!more) return;
    frame = zmq::message_t();
    if (!socket.recv(frame, zmq::recv_flags::dontwait)) return;
  }
}

}  // namespace

void check_endpoint(const std::string& endpoint) {
  constexpr std::string_view kPrefix = "ipc://";
  if (endpoint.rfind("tcp://", 0) == 0) {
    throw TransportError(
        fmt::format("endpoint '{}': TCP endpoints need authentication, which this version does not "
                    "have yet; use ipc:///path/to/socket",
                    endpoint));
  }
  if (endpoint.rfind(kPrefix, 0) != 0 || endpoint.size() == kPrefix.size()) {
    throw TransportError(
        fmt::format("endpoint '{}' is not of the form ipc:///path/to/socket", endpoint));
  }
  constexpr std::size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
  if (endpoint.size() - kPrefix.size() > kMaxPath) {
    throw TransportError(
        fmt::format("endpoint '{}': the path is longer than the {} bytes a Unix socket allows; "
                    "choose a shorter folder",
                    endpoint, kMaxPath));
  }
}

TransportContext::TransportContext() : context_(std::make_unique<zmq::context_t>(1)) {
  context_->set(zmq::ctxopt::max_sockets, 60'000);
}
TransportContext::~TransportContext() = default;

struct Router::Socket {
  zmq::socket_t zmq;
};

Router::Router(TransportContext& context)
    : socket_(std::make_unique<Socket>(
          Socket{zmq::socket_t(context.native(), zmq::socket_type::router)})) {
  set_common_options(socket_->zmq);
  socket_->zmq.set(zmq::sockopt::router_mandatory, true);
}
Router::~Router() = default;

void Router::bind(const std::string& endpoint) {
  check_endpoint(endpoint);
  try {
    socket_->zmq.bind(endpoint);
  } catch (const zmq::error_t& error) {
    throw TransportError(
        fmt::format("cannot listen on '{}': {}; check that the folder exists and "
                    "that no other broker uses this endpoint",
                    endpoint, error.what()));
  }
}

SendResult Router::send(PeerId peer, Frames frames) {
  std::array<char, kAutomaticIdBytes> id{};
  for (std::size_t i = 1; i < id.size(); ++i) {
    id[i] = static_cast<char>(static_cast<std::uint64_t>(peer) >> (8 * (id.size() - 1 - i)));
  }
  try {
    if (!socket_->zmq.send(zmq::const_buffer(id.data(), id.size()),
                           zmq::send_flags::sndmore | zmq::send_flags::dontwait)) {
      return SendResult::full;
    }
    return send_all(socket_->zmq, std::move(frames));
  } catch (const zmq::error_t& error) {
    if (error.num() == EHOSTUNREACH) return SendResult::gone;
    throw;
  }
}

std::optional<Received> Router::receive() {
  while (true) {
    zmq::message_t id;
    if (!socket_->zmq.recv(id, zmq::recv_flags::dontwait)) return std::nullopt;
    Received received;
    zmq::message_t first;
    if (!id.more() || !socket_->zmq.recv(first, zmq::recv_flags::dontwait)) continue;
    receive_rest(socket_->zmq, std::move(first), received.frames);
    const auto* bytes = static_cast<const unsigned char*>(id.data());
    if (id.size() != kAutomaticIdBytes || bytes[0] != 0) {
      ++refused_identities_;  // identity is what HELLO says, never a routing id of one's choice
      continue;
    }
    std::uint64_t peer = 0;
    for (std::size_t i = 1; i < kAutomaticIdBytes; ++i) peer = peer << 8 | bytes[i];
    received.peer = PeerId{peer};
    return received;
  }
}

void* Router::native_socket() { return socket_->zmq.handle(); }

struct Dealer::Socket {
  zmq::socket_t zmq;
  zmq::socket_t monitor;
};

Dealer::Dealer(TransportContext& context, const std::string& endpoint)
    : socket_(std::make_unique<Socket>(
          Socket{zmq::socket_t(context.native(), zmq::socket_type::dealer),
                 zmq::socket_t(context.native(), zmq::socket_type::pair)})) {
  check_endpoint(endpoint);
  zmq::socket_t& socket = socket_->zmq;
  set_common_options(socket);
  socket.set(zmq::sockopt::reconnect_ivl, 50);
  socket.set(zmq::sockopt::reconnect_ivl_max, 2'000);
  // Never a name again: libzmq lets go of one some time after its socket was closed.
  static std::atomic<std::uint64_t> last_monitor{0};
  const std::string monitor_name = fmt::format("inproc://muster-monitor-{}", ++last_monitor);
  const int watched =
      zmq_socket_monitor(socket.handle(), monitor_name.c_str(), ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
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

SendResult Dealer::send(Frames frames) { return send_all(socket_->zmq, std::move(frames)); }

std::optional<Frames> Dealer::receive() {
  zmq::message_t first;
  if (!socket_->zmq.recv(first, zmq::recv_flags::dontwait)) return std::nullopt;
  Frames frames;
  receive_rest(socket_->zmq, std::move(first), frames);
  return frames;
}

bool Dealer::has_input() { return (socket_->zmq.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0; }

bool Dealer::take_connected() {
  bool connected = false;
  zmq::message_t frame;
  while (socket_->monitor.recv(frame, zmq::recv_flags::dontwait)) {
    connected = true;  // the only event asked for; its second frame is the address
  }
  return connected;
}

void Dealer::set_linger(std::chrono::milliseconds time) {
  socket_->zmq.set(zmq::sockopt::linger, static_cast<int>(time.count()));
}

void* Dealer::native_socket() { return socket_->zmq.handle(); }
void* Dealer::native_monitor() { return socket_->monitor.handle(); }
int Dealer::descriptor() { return socket_->zmq.get(zmq::sockopt::fd); }
int Dealer::monitor_descriptor() { return socket_->monitor.get(zmq::sockopt::fd); }

void Poller::watch_socket(void* native_socket) { sockets_.push_back({native_socket, -1, false}); }
void Poller::watch(int descriptor) { descriptors_.push_back({nullptr, descriptor, false}); }
bool Poller::readable(std::size_t index) const { return descriptors_[index].ready; }

void Poller::clear() {
  sockets_.clear();
  descriptors_.clear();
}

void Poller::wait(std::chrono::nanoseconds timeout) {
  thread_local std::vector<zmq_pollitem_t> items;
  items.clear();
  for (const Item& item : sockets_) items.push_back({item.socket, 0, ZMQ_POLLIN, 0});
  for (const Item& item : descriptors_) items.push_back({nullptr, item.descriptor, ZMQ_POLLIN, 0});
  // Rounded up: a deadline is never reached early, and no loop spins on its last microseconds.
  constexpr std::chrono::milliseconds kLongest{60'000};
  const auto rounded =
      timeout == kNever ? kLongest : std::chrono::ceil<std::chrono::milliseconds>(timeout);
  const auto wait = std::clamp(rounded, std::chrono::milliseconds{0}, kLongest);
  const int ready = zmq_poll(items.data(), static_cast<int>(items.size()), wait.count());
  for (std::size_t i = 0; i < descriptors_.size(); ++i) {
    // A pipe whose writer is gone reports an error, no input; reading it tells which.
    descriptors_[i].ready = ready > 0 && items[sockets_.size() + i].revents != 0;
  }
}

}  // namespace muster
