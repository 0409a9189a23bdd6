// All nodes that the broker reaches by ssh: one Node, and so one thread, each.
//
// Owner: the broker's loop. Threads: everything here is called by the loop's thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/door/authenticator.hpp"
#include "broker/hosts/host.hpp"
#include "common/protocol/message.hpp"

namespace muster {

struct NodePoolOptions {
  std::string tunnel_socket;  // path of the Unix socket where tunnels end: the broker's PLAIN side
  std::string curve_socket;   // ... and its CURVE side; empty: it has none
  // What names this pool's workers on their nodes: the same after a restart of the broker.
  std::string pool_name;
  std::string bundle;  // the worker bundle's path; empty: looked for beside this program
  std::string curve_server_key = {};  // the public key (Z85) of the CURVE side
  bool knows_workers = false;  // it stays the same, and workers with keys of their own may log in
  std::vector<std::string> plugins = {};  // files that every worker loads (HostsReader)
  std::chrono::seconds drain{10};         // how long running tasks may go on when a node goes down
};

class NodePool {
 public:
  NodePool(NodePoolOptions options, Authenticator& authenticator);
  ~NodePool();  // ends every tunnel at once; workers wait for their grace
  NodePool(const NodePool&) = delete;
  NodePool& operator=(const NodePool&) = delete;

  // Starts what is not up yet; a host of a known name that differs is ended and started anew.
  // Returns at once. Throws std::invalid_argument when this process may not open enough descriptors
  // for all of them; nothing was done.
  void up(const std::vector<Host>& hosts);
  // Ends the workers of these nodes (none named: all), then their tunnels; rows() no longer has
  // them when it is over. Returns at once. False: a name is unknown, nothing was done.
  bool down(const std::vector<std::string>& names);
  // Waits until all are down, at most `patience`.
  void finish(std::chrono::milliseconds patience);
  bool empty() const;

  std::vector<message::NodeStatus> rows() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace muster
