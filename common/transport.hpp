// The ZeroMQ seam: the only header through which Muster's processes touch sockets.
//
// Router is the broker's side, Dealer a producer's or worker's. Both carry Frames (codec.hpp),
// never block, and bound what an endless or silent peer can cost (docs/protocol.md, "Transport").
// Threads: a Router belongs to the one thread that polls it. A Dealer may be used by several, one
// at a time, with a mutex in between.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/codec.hpp"
#include "common/ids.hpp"

namespace zmq {
class context_t;
}

namespace muster {

// The endpoint cannot be used: bad syntax, no permission, in use. `what()` says what to do.
class TransportError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws TransportError unless `endpoint` is one that this version may use: ipc:// with a path that
// fits. TCP endpoints need an authenticating mechanism (docs/design.md, "Security").
void check_endpoint(const std::string& endpoint);

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
  PeerId peer{};  // Router only
  Frames frames;
};

enum class SendResult {
  sent,  // queued; delivery is known only from the peer's answer
  gone,  // the connection is closed
  full,  // the peer does not read: treat the connection as dead
};

class Router {
 public:
  explicit Router(TransportContext& context);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  void bind(const std::string& endpoint);  // throws TransportError
  SendResult send(PeerId peer, Frames frames);
  std::optional<Received> receive();  // nothing: no message waits
  // Messages dropped because the peer chose its own routing id.
  std::uint64_t refused_identities() const { return refused_identities_; }
  void* native_socket();

 private:
  struct Socket;
  std::unique_ptr<Socket> socket_;
  std::uint64_t refused_identities_ = 0;
};

class Dealer {
 public:
  Dealer(TransportContext& context, const std::string& endpoint);  // throws TransportError
  ~Dealer();
  Dealer(const Dealer&) = delete;
  Dealer& operator=(const Dealer&) = delete;

  SendResult send(Frames frames);  // `full` while the broker does not read
  std::optional<Frames> receive();
  // Whether receive() would return something.
  bool has_input();
  // Whether a connection was made since the last call: the moment to say HELLO.
  bool take_connected();
  // Lets what was sent leave for up to `time` after the Dealer is destroyed; otherwise it is
  // dropped. The context's destructor waits for it.
  void set_linger(std::chrono::milliseconds time);
  void* native_socket();
  void* native_monitor();
  // For poll(2): become readable when has_input() or take_connected() may have become true. Only
  // the change is told: whoever used the Dealer at all, send() included, asks has_input() before
  // anybody sleeps on them.
  int descriptor();
  int monitor_descriptor();

 private:
  struct Socket;
  std::unique_ptr<Socket> socket_;
};

// What a loop waits for: sockets and plain descriptors that become readable.
class Poller {
 public:
  void watch_socket(void* native_socket);
  void watch(int descriptor);
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
  std::vector<Item> sockets_;
  std::vector<Item> descriptors_;
};

}  // namespace muster
