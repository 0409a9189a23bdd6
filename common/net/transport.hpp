// The ZeroMQ seam: the only header through which Muster's processes touch sockets.
//
// Router is the broker's side, Dealer a producer's or worker's. Both carry Frames (codec.hpp),
// never block, and bound what an endless or silent peer can cost (docs/protocol.md, "Transport").
// Local endpoints are Unix sockets that only their user may open. Every other one authenticates its
// peers: PLAIN where an ssh tunnel encrypts already or the user trusts the network, CURVE anywhere
// else. Who may connect says the ZAP handler of the context (broker/door/authenticator.hpp);
// without one nobody is admitted. Threads: a Router belongs to the one thread that polls it. A
// Dealer may be used by several, one at a time, with a mutex in between.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "common/protocol/codec.hpp"
#include "common/protocol/ids.hpp"

namespace zmq {
class context_t;
}

namespace muster {

// The endpoint cannot be used: bad syntax, no permission, in use. `what()` says what to do.
class TransportError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// How a Dealer says who it is. Keys are Z85 texts of 40 characters.
struct PlainLogin {  // user and password have at most 255 bytes; the broker proves nothing
  std::string user;
  std::string password;
  bool trusts_network = false;  // may go over a network in the clear
};
struct CurveLogin {
  std::string server_key;  // public key of the broker
  std::string public_key;
  std::string secret_key;
};
using Login = std::variant<std::monostate, PlainLogin, CurveLogin>;

// Which peers a bound endpoint admits.
enum class Security {
  local,    // ZeroMQ's NULL mechanism: every process that may open the Unix socket
  plain,    // user and password, on this machine alone
  trusted,  // the same over a network; nothing is encrypted: the user said that it may be so
  curve,    // key pairs; encrypted
};
struct BindOptions {
  Security security = Security::local;
  std::string secret_key = {};  // curve: the server's, Z85
};

// Throws TransportError unless an endpoint with this security may be used: ipc:// with a path that
// fits, tcp://HOST:PORT anywhere with CURVE or on a trusted network, and on the machine's own
// loopback with PLAIN (the end of an ssh tunnel). A port of `*`, for bind() alone, is chosen by the
// system.
void check_endpoint(const std::string& endpoint, Security security = Security::local);
void check_endpoint(const std::string& endpoint, const Login& login);

// The ZeroMQ context of a process. Outlives every socket made from it.
class TransportContext {
 public:
  TransportContext();
  ~TransportContext();
  TransportContext(const TransportContext&) = delete;
  TransportContext& operator=(const TransportContext&) = delete;
  zmq::context_t& native() { return *context_; }

 private:
  std::unique_ptr<zmq::context_t> context_;
};

struct Received {
  PeerId peer{};
  std::string user;     // as the ZAP handler named it; empty on local endpoints
  bool remote = false;  // came through an endpoint that authenticates
  // The number of a local peer's user, with messages that may be greetings: as the system said when
  // the connection was made. Nothing: another message, or a libzmq that does not ask the system.
  std::optional<std::uint32_t> local_user = std::nullopt;
  Frames frames;
};

enum class SendResult {
  sent,  // queued; delivery is known only from the peer's answer
  gone,  // the connection is closed
  full,  // the peer does not read: treat the connection as dead
};

class Poller;

// Any number of endpoints; each kind of security has sockets of its own.
class Router {
 public:
  explicit Router(TransportContext& context);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  // Throws TransportError. Returns the endpoint with the port that was chosen. Others than local
  // ones admit nobody unless the context has a ZAP handler.
  std::string bind(const std::string& endpoint, const BindOptions& options = {});
  SendResult send(PeerId peer, Frames frames);
  std::optional<Received> receive();  // nothing: no message waits
  // Messages dropped because the peer chose its own routing id ...
  std::uint64_t refused_identities() const { return refused_identities_; }
  // ... and because nobody vouched for the peer of an endpoint that authenticates.
  std::uint64_t refused_strangers() const { return refused_strangers_; }
  // Whether this peer came through an endpoint that authenticates.
  bool is_remote(PeerId peer) const;
  // Lets `poller` wake for messages on any of the endpoints that are bound by now. Outlives it.
  void watch(Poller& poller);

 private:
  struct Socket;
  Socket& socket_for(const BindOptions& options);
  std::optional<Received> receive_from(Socket& socket);

  TransportContext& context_;
  std::vector<std::unique_ptr<Socket>> sockets_;
  std::size_t current_ = 0;  // the socket that receive() asks first ...
  int burst_ = 0;            // ... and how many of its messages came in a row
  std::uint64_t refused_identities_ = 0;
  std::uint64_t refused_strangers_ = 0;
};

class Dealer {
 public:
  // Throws TransportError. TCP endpoints need a login.
  Dealer(TransportContext& context, const std::string& endpoint, const Login& login = {});
  ~Dealer();
  Dealer(const Dealer&) = delete;
  Dealer& operator=(const Dealer&) = delete;

  // `full` while the broker does not read; with a PlainLogin also while there is no connection, and
  // what waits when one breaks is dropped.
  SendResult send(Frames frames);
  std::optional<Frames> receive();
  // Whether receive() would return something, or take_connected() or take_refused() has news that
  // this Dealer knows of already.
  bool has_input();
  // Whether a connection was made since the last call: the moment to say HELLO.
  bool take_connected();
  // Whether, since the last call, the other side refused the login or is no broker with this kind
  // of security. The Dealer does not try again by itself then.
  bool take_refused();
  // Lets what was sent leave for up to `time` after the Dealer is destroyed; otherwise it is
  // dropped. The context's destructor waits for it.
  void set_linger(std::chrono::milliseconds time);
  void* native_socket();
  void* native_monitor();
  // For poll(2): become readable when has_input(), take_connected() or take_refused() may have
  // become true. Only the change is told: after any use of the Dealer, its constructor and
  // send() included, ask has_input() before sleeping on them.
  int descriptor();
  int monitor_descriptor();

 private:
  struct Socket;
  void read_monitor();
  bool look_for_message();

  std::unique_ptr<Socket> socket_;
  bool connected_ = false;
  bool was_connected_ = false;  // ever
  bool refused_ = false;
};

// What a loop waits for: sockets and plain descriptors that become readable.
class Poller {
 public:
  void watch_socket(void* native_socket);
  void watch(int descriptor);
  // For sockets whose owner reads until nothing is left: `*may_have_input` becomes true when the
  // descriptor (of ZMQ_FD, which tells only changes) does, and wait() does not block while it is.
  void watch_changes(int descriptor, bool* may_have_input);
  // Whether descriptor number `index` (in the order of `watch` calls) was readable.
  bool readable(std::size_t index) const;
  void clear();
  // Blocks until something is readable or `timeout` passed (kNever: no limit). A signal ends it.
  void wait(std::chrono::nanoseconds timeout);

 private:
  struct Item {
    void* socket;
    int descriptor;
    bool ready;
  };
  struct Change {
    int descriptor;
    bool* may_have_input;
  };
  std::vector<Item> sockets_;
  std::vector<Change> changes_;
  std::vector<Item> descriptors_;
};

}  // namespace muster
