// The broker's side: one ZeroMQ ROUTER per kind of security.
#include <fmt/format.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <random>
#include <string_view>
#include <utility>
#include <zmq.hpp>

#include "common/net/connection_gate.hpp"
#include "common/net/frames.hpp"
#include "common/net/transport.hpp"

namespace muster {
namespace {

constexpr std::size_t kAutomaticIdBytes = 5;
constexpr int kSocketShift = 32;  // of a PeerId: the socket's index stands above libzmq's id

// ZMQ_ZAP_ENFORCE_DOMAIN: zmq.h names it for draft builds only, every build since 4.3 has it.
constexpr int kZapEnforceDomain = 93;

// So many messages of one socket in a row, then the others are asked.
constexpr int kBurst = 64;

// The user that the ZAP handler named; nothing when none did.
std::string user_of(zmq::message_t& frame) {
  const char* user = zmq_msg_gets(frame.handle(), "User-Id");
  return user == nullptr ? "" : user;
}

// The second last but one of the numbers in "…:USER:GROUP:PROCESS", which libzmq makes of what the
// system says of the other end of a Unix socket.
std::optional<std::uint32_t> local_user_of(zmq::message_t& frame) {
  const char* address = zmq_msg_gets(frame.handle(), "Peer-Address");
  if (address == nullptr) return std::nullopt;
  std::string_view text = address;
  for (int i = 0; i < 2; ++i) text = text.substr(0, std::min(text.rfind(':'), text.size()));
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  text.remove_prefix(colon + 1);
  std::uint32_t user = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), user);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return user;
}

// libzmq draws the first id that a ROUTER gives from rand(), which nobody seeds: a peer that knows
// the next one can claim it, and the process aborts. Called right before each ROUTER is made.
void seed_ids() { std::srand(std::random_device()()); }

void secure(zmq::socket_t& socket, const BindOptions& options) {
  // Without these a PLAIN or CURVE server admits everybody when no ZAP handler answers.
  const int enforce = 1;
  if (zmq_setsockopt(socket.handle(), kZapEnforceDomain, &enforce, sizeof enforce) != 0) {
    throw TransportError(
        fmt::format("this libzmq cannot enforce authentication ({}); install libzmq 4.3.4 or later",
                    zmq_strerror(zmq_errno())));
  }
  socket.set(zmq::sockopt::zap_domain, "muster");
  if (options.security == Security::plain || options.security == Security::trusted) {
    socket.set(zmq::sockopt::plain_server, true);
    return;
  }
  transport::check_curve();
  socket.set(zmq::sockopt::curve_server, true);
  try {
    socket.set(zmq::sockopt::curve_secretkey, options.secret_key);
  } catch (const zmq::error_t&) {
    throw TransportError(
        "the broker's secret key is not a Z85 text of 40 characters; make a key file with `muster "
        "keygen`");
  }
}

}  // namespace

struct Router::Socket {
  Socket(TransportContext& context, BindOptions its_options)
      : zmq(context.native(), zmq::socket_type::router), options(std::move(its_options)) {}
  bool is_remote() const { return options.security != Security::local; }

  zmq::socket_t zmq;
  BindOptions options;
  std::uint64_t index = 0;
  bool is_watched = false;  // a poller tells when there may be input
  bool may_have_input = true;
};

Router::Router(TransportContext& context) : context_(context) {}
Router::~Router() = default;

Router::Socket& Router::socket_for(const BindOptions& options) {
  for (const auto& socket : sockets_) {
    if (socket->options.security == options.security &&
        socket->options.secret_key == options.secret_key) {
      return *socket;
    }
  }
  seed_ids();
  auto made = std::make_unique<Socket>(context_, options);
  transport::set_common_options(made->zmq);
  made->zmq.set(zmq::sockopt::router_mandatory, true);
  if (made->is_remote()) secure(made->zmq, options);
  made->index = sockets_.size();
  sockets_.push_back(std::move(made));
  return *sockets_.back();
}

std::string Router::bind(const std::string& endpoint, const BindOptions& options) {
  check_endpoint(endpoint, options.security);
  Socket& socket = socket_for(options);
  if (socket.is_remote()) transport::set_remote_options(socket.zmq, endpoint);
  try {
    socket.zmq.bind(endpoint);
    return socket.zmq.get(zmq::sockopt::last_endpoint);
  } catch (const zmq::error_t& error) {
    const bool is_tcp = endpoint.rfind("tcp://", 0) == 0;
    throw TransportError(fmt::format(
        "cannot listen on '{}': {}; check that {} and that no other broker uses this endpoint",
        endpoint, error.what(),
        is_tcp ? "the address is one of this machine's" : "the folder exists"));
  }
}

SendResult Router::send(PeerId peer, Frames frames) {
  const auto number = static_cast<std::uint64_t>(peer);
  if (number >> kSocketShift >= sockets_.size()) return SendResult::gone;
  Socket& socket = *sockets_[number >> kSocketShift];
  socket.may_have_input = true;  // sending may take the change from the descriptor
  std::array<char, kAutomaticIdBytes> id{};
  for (std::size_t i = 1; i < id.size(); ++i) {
    id[i] = static_cast<char>(number >> (8 * (id.size() - 1 - i)));
  }
  try {
    if (!socket.zmq.send(zmq::const_buffer(id.data(), id.size()),
                         zmq::send_flags::sndmore | zmq::send_flags::dontwait)) {
      return SendResult::full;
    }
    return transport::send_all(socket.zmq, std::move(frames));
  } catch (const zmq::error_t& error) {
    if (error.num() == EHOSTUNREACH) return SendResult::gone;
    throw;
  }
}

std::optional<Received> Router::receive() {
  for (std::size_t asked = 0; asked < sockets_.size(); ++asked) {
    Socket& socket = *sockets_[current_];
    if (!socket.is_watched || socket.may_have_input) {
      auto received = receive_from(socket);
      if (received && ++burst_ < kBurst) return received;
      if (!received) socket.may_have_input = false;
      burst_ = 0;
      current_ = (current_ + 1) % sockets_.size();
      if (received) return received;
    } else {
      burst_ = 0;
      current_ = (current_ + 1) % sockets_.size();
    }
  }
  return std::nullopt;
}

std::optional<Received> Router::receive_from(Socket& socket) {
  while (true) {
    zmq::message_t id;
    if (!socket.zmq.recv(id, zmq::recv_flags::dontwait)) return std::nullopt;
    Received received;
    zmq::message_t first;
    if (!id.more() || !socket.zmq.recv(first, zmq::recv_flags::dontwait)) continue;
    if (socket.is_remote()) {
      received.remote = true;
      received.user = user_of(first);
      gate::delivered(zmq_msg_get(first.handle(), ZMQ_SRCFD));
    } else if (may_be_greeting({static_cast<const std::byte*>(first.data()), first.size()})) {
      received.local_user = local_user_of(first);
    }
    transport::receive_rest(socket.zmq, std::move(first), received.frames);
    if (received.remote && received.user.empty()) {
      ++refused_strangers_;
      continue;
    }
    const auto* bytes = static_cast<const unsigned char*>(id.data());
    if (id.size() != kAutomaticIdBytes || bytes[0] != 0) {
      ++refused_identities_;  // identity is what HELLO says, never a routing id of one's choice
      continue;
    }
    std::uint64_t peer = socket.index;
    for (std::size_t i = 1; i < kAutomaticIdBytes; ++i) peer = peer << 8 | bytes[i];
    received.peer = PeerId{peer};
    return received;
  }
}

bool Router::is_remote(PeerId peer) const {
  const std::uint64_t index = static_cast<std::uint64_t>(peer) >> kSocketShift;
  return index < sockets_.size() && sockets_[index]->is_remote();
}

// Local sockets are watched as libzmq does it, which asks each before and after sleeping. Of the
// others only a change is watched, so that they cost nothing while only local peers talk.
void Router::watch(Poller& poller) {
  for (const auto& socket : sockets_) {
    if (socket->is_remote()) {
      socket->is_watched = true;
      poller.watch_changes(socket->zmq.get(zmq::sockopt::fd), &socket->may_have_input);
    } else {
      poller.watch_socket(socket->zmq.handle());
    }
  }
}

}  // namespace muster
