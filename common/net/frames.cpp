#include "common/net/frames.hpp"

#include <memory>
#include <utility>

#include "common/protocol/limits.hpp"

namespace muster::transport {
namespace {

// Safety net only: flow control is the protocol's credit. A peer with this many unread messages
// does not read at all.
constexpr int kHighWaterMark = 20'000;

// Frames up to this size are copied out of libzmq: its small messages pin an 8 KiB receive buffer.
constexpr std::size_t kCopyBelowBytes = std::size_t{32} << 10;

// Strangers may open connections and say nothing; each costs a descriptor for so long.
constexpr int kRemoteHandshakeMilliseconds = 5'000;

zmq::message_t to_frame(Bytes&& bytes) {
  if (bytes.size() < kCopyBelowBytes) return {bytes.data(), bytes.size()};
  auto keeper = std::make_unique<Bytes>(std::move(bytes));
  void* data = const_cast<std::byte*>(keeper->data());  // libzmq never writes to it
  const std::size_t size_bytes = keeper->size();
  return {data, size_bytes, [](void*, void* hint) { delete static_cast<Bytes*>(hint); },
          keeper.release()};
}

}  // namespace

void set_common_options(zmq::socket_t& socket) {
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::sndhwm, kHighWaterMark);
  socket.set(zmq::sockopt::rcvhwm, kHighWaterMark);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(limits::kMaxPayloadBytes));
  socket.set(zmq::sockopt::handshake_ivl, 10'000);
  socket.set(zmq::sockopt::backlog, 4096);
}

void set_remote_options(zmq::socket_t& socket, const std::string& endpoint) {
  socket.set(zmq::sockopt::handshake_ivl, kRemoteHandshakeMilliseconds);
  if (endpoint.rfind("tcp://", 0) != 0) return;
  // Our own heartbeats notice a dead peer; these free what its connection holds in the kernel.
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, 30);
  socket.set(zmq::sockopt::tcp_keepalive_intvl, 10);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
  socket.set(zmq::sockopt::tcp_maxrt, 30'000);
  if (endpoint.find('[') != std::string::npos) socket.set(zmq::sockopt::ipv6, true);
}

Bytes to_bytes(zmq::message_t&& frame) {
  if (frame.size() < kCopyBelowBytes) return Bytes::copy(frame.data(), frame.size());
  const auto owner = std::make_shared<zmq::message_t>(std::move(frame));
  const auto* begin = static_cast<const std::byte*>(owner->data());
  return {owner, {begin, owner->size()}};
}

SendResult send_all(zmq::socket_t& socket, Frames&& frames) {
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const bool more = i + 1 < frames.size();
    const auto flags =
        (more ? zmq::send_flags::sndmore : zmq::send_flags::none) | zmq::send_flags::dontwait;
    if (!socket.send(to_frame(std::move(frames[i])), flags)) return SendResult::full;
  }
  return SendResult::sent;
}

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

void check_curve() {
  if (zmq_has("curve") == 1) return;
  throw TransportError(
      "this libzmq was built without CURVE, so keys cannot be used; install Debian's libzmq5 or "
      "build libzmq with libsodium");
}

}  // namespace muster::transport
