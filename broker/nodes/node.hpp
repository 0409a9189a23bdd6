// One machine that the broker reaches by ssh, for as long as it is in the pool: connects, puts
// there what is missing, holds the worker's tunnel, and does it again when the connection breaks.
//
// Owner: NodePool. One thread each; the functions below may be called by the broker's loop at any
// time and never block, except the destructor.
#pragma once

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>

#include "broker/door/authenticator.hpp"
#include "broker/hosts/host.hpp"
#include "broker/nodes/attach_request.hpp"
#include "broker/nodes/bundle.hpp"
#include "broker/nodes/environment.hpp"
#include "broker/nodes/node_pool.hpp"
#include "broker/ssh/backoff.hpp"
#include "broker/ssh/remote.hpp"
#include "common/protocol/message.hpp"

namespace muster {

class Node {
 public:
  // All outlive it. `on_end` is called by the node's thread, last.
  Node(Host host, const NodePoolOptions& options, Authenticator& authenticator,
       std::function<void()> on_end);
  ~Node();  // ends the tunnel at once; the worker waits for its grace
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Ends the worker, which may go on with what it runs for `drain`, then the tunnel.
  void down(std::chrono::seconds drain);
  // The same, and then the node comes up again as `host`. False: this one is over, nothing happens;
  // the host needs a new Node.
  bool replace(Host host, std::chrono::seconds drain);
  // Whatever goes on ends now.
  void cut();

  Host host() const;  // as it is, or will be
  bool ending() const;
  bool over() const;
  message::NodeStatus row() const;

 private:
  enum class State { connecting, preparing, up, waiting, failed, ending };

  static Time now() {
    return std::chrono::duration_cast<Time>(std::chrono::steady_clock::now().time_since_epoch());
  }
  static void* enter(void* node);
  void run();
  void live();
  void serve(Remote& remote);
  void serve_standing(Remote& remote);
  AttachEnd attach(Remote& remote, std::uint16_t port);
  void prepare(Remote& remote);
  void say_goodbye();
  void heard(std::string_view line, bool is_error, AttachEnd& end);
  void failed(const NodeError& error);
  void set_state(State state, const std::string& step, const std::string& detail);
  Progress progress();
  bool stopped() const;
  bool next_host();
  void begin_end(std::chrono::seconds drain);  // under the mutex
  void hold(std::unique_ptr<Remote> remote);
  void release();

  const NodePoolOptions& options_;
  Authenticator& authenticator_;
  const std::function<void()> on_end_;
  TunnelCounters counters_;
  pthread_t thread_{};

  // --- The node's thread alone
  Host current_;
  std::optional<Bundle> bundle_;
  Image image_;
  Backoff backoff_;
  std::minstd_rand chance_;
  bool may_run_ = false;  // a worker of ours may be there

  // --- Under the mutex
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Host host_;
  std::optional<Host> next_;
  std::unique_ptr<Remote> remote_;
  bool held_up_ = false;  // its command runs: finish() reaches it
  bool ending_ = false;
  bool cut_ = false;
  bool over_ = false;
  std::chrono::seconds drain_{0};
  State state_ = State::connecting;
  std::string step_, detail_;
  Time state_since_{};
  std::uint64_t ups_ = 0;
};

}  // namespace muster
