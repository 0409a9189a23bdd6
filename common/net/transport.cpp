// Endpoints, the context and the poller; sockets: transport_router.cpp and transport_dealer.cpp.
#include "common/net/transport.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/un.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>
#include <zmq.hpp>

#include "common/system/descriptor.hpp"
#include "common/time.hpp"

namespace muster {
namespace {

constexpr std::string_view kIpc = "ipc://";
constexpr std::string_view kTcp = "tcp://";

void check_ipc(const std::string& endpoint) {
  if (endpoint.rfind(kIpc, 0) != 0 || endpoint.size() == kIpc.size()) {
    throw TransportError(
        fmt::format("endpoint '{}' is not of the form ipc:///path/to/socket", endpoint));
  }
  constexpr std::size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
  if (endpoint.size() - kIpc.size() > kMaxPath) {
    throw TransportError(
        fmt::format("endpoint '{}': the path is longer than the {} bytes a Unix socket allows; "
                    "choose a shorter folder",
                    endpoint, kMaxPath));
  }
}

// The host of tcp://HOST:PORT.
std::string_view check_tcp(const std::string& endpoint) {
  const std::string_view address = std::string_view(endpoint).substr(kTcp.size());
  const std::size_t colon = address.rfind(':');
  const std::string_view host = address.substr(0, colon);
  const std::string_view port = colon == std::string_view::npos ? "" : address.substr(colon + 1);
  std::uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  const bool is_port =
      port == "*" || (error == std::errc() && end == port.data() + port.size() && number != 0);
  const bool is_bare_ipv6 = host.find(':') != std::string_view::npos && host.front() != '[';
  if (host.empty() || host.find_first_of("/;@ ") != std::string_view::npos || !is_port ||
      is_bare_ipv6) {
    throw TransportError(fmt::format(
        "endpoint '{}' is not of the form tcp://HOST:PORT (an IPv6 address in brackets)",
        endpoint));
  }
  return host;
}

// libzmq aborts when it finds none for its threads and first sockets.
void check_descriptors() {
  constexpr int kNeeded = 24;
  const Descriptor first(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::vector<Descriptor> others;
  for (int i = 1; first && i < kNeeded; ++i) {
    others.emplace_back(::fcntl(first.get(), F_DUPFD_CLOEXEC, 0));
    if (!others.back()) break;
  }
  if (first && others.back()) return;
  throw TransportError(
      fmt::format("no descriptors are left for a connection ({}): raise the limit (`ulimit -n`), "
                  "or close files",
                  std::strerror(errno)));
}

bool is_loopback(std::string_view host) {
  return host == "127.0.0.1" || host == "[::1]" || host == "localhost";
}

}  // namespace

void check_endpoint(const std::string& endpoint, Security security) {
  if (endpoint.rfind(kTcp, 0) != 0) return check_ipc(endpoint);
  const std::string_view host = check_tcp(endpoint);
  if (security == Security::local) {
    throw TransportError(
        fmt::format("endpoint '{}': TCP endpoints need keys on both sides (`muster keygen`, then "
                    "--key), or on a trusted network a secret (docs/broker.md); on one machine use "
                    "ipc:///path/to/socket",
                    endpoint));
  }
  if (security == Security::plain && !is_loopback(host)) {
    throw TransportError(
        fmt::format("endpoint '{}': a password may not leave this machine unencrypted; use "
                    "127.0.0.1 (the end of an ssh tunnel), or keys, or say that the network is "
                    "to be trusted (`muster keygen --secret FILE`)",
                    endpoint));
  }
}

void check_endpoint(const std::string& endpoint, const Login& login) {
  if (endpoint.rfind(kTcp, 0) == 0 && endpoint.size() > 2 &&
      endpoint.compare(endpoint.size() - 2, 2, ":*") == 0) {
    throw TransportError(fmt::format("endpoint '{}': which port? Say the broker's", endpoint));
  }
  static_assert(std::variant_size_v<Login> == 3);
  constexpr Security kKinds[] = {Security::local, Security::plain, Security::curve};
  const auto* plain = std::get_if<PlainLogin>(&login);
  const bool is_trusted = plain != nullptr && plain->trusts_network;
  check_endpoint(endpoint, is_trusted ? Security::trusted : kKinds[login.index()]);
}

TransportContext::TransportContext() : context_(std::make_unique<zmq::context_t>(1)) {
  context_->set(zmq::ctxopt::max_sockets, 60'000);
  check_descriptors();
  // libzmq starts its threads with the first socket.
  zmq::socket_t(*context_, zmq::socket_type::pair).close();
}
TransportContext::~TransportContext() = default;

void Poller::watch_socket(void* native_socket) { sockets_.push_back({native_socket, -1, false}); }
void Poller::watch(int descriptor) { descriptors_.push_back({nullptr, descriptor, false}); }
void Poller::watch_changes(int descriptor, bool* may_have_input) {
  changes_.push_back({descriptor, may_have_input});
}
bool Poller::readable(std::size_t index) const { return descriptors_[index].ready; }

void Poller::clear() {
  sockets_.clear();
  descriptors_.clear();
  changes_.clear();
}

void Poller::wait(std::chrono::nanoseconds timeout) {
  thread_local std::vector<zmq_pollitem_t> items;
  items.clear();
  for (const Item& item : sockets_) items.push_back({item.socket, 0, ZMQ_POLLIN, 0});
  for (const Item& item : descriptors_) items.push_back({nullptr, item.descriptor, ZMQ_POLLIN, 0});
  for (const Change& change : changes_) {
    items.push_back({nullptr, change.descriptor, ZMQ_POLLIN, 0});
    if (*change.may_have_input) timeout = std::chrono::nanoseconds(0);
  }
  // Rounded up: a deadline is never reached early, and no loop spins on its last microseconds.
  constexpr std::chrono::milliseconds kLongest{60'000};
  const auto rounded =
      timeout == kNever ? kLongest : std::chrono::ceil<std::chrono::milliseconds>(timeout);
  const auto wait = std::clamp(rounded, std::chrono::milliseconds{0}, kLongest);
  const int ready = zmq_poll(items.data(), static_cast<int>(items.size()), wait.count());
  const std::size_t first_change = sockets_.size() + descriptors_.size();
  for (std::size_t i = 0; i < descriptors_.size(); ++i) {
    // A pipe whose writer is gone reports an error, no input; reading it tells which.
    descriptors_[i].ready = ready > 0 && items[sockets_.size() + i].revents != 0;
  }
  for (std::size_t i = 0; i < changes_.size(); ++i) {
    if (ready > 0 && items[first_change + i].revents != 0) *changes_[i].may_have_input = true;
  }
}

}  // namespace muster
