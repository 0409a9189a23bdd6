// The broker's nodes on the loop's side: takes NODES_UP and NODES_DOWN from the scheduler, gives
// them to the NodePool, and gives the scheduler its rows for STATUS.
//
// Owner: the broker's loop. Threads: the loop's.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "broker/door/authenticator.hpp"
#include "broker/hosts/wanted_nodes.hpp"
#include "broker/nodes/hosts_reader.hpp"
#include "broker/nodes/node_pool.hpp"
#include "broker/scheduling/scheduler.hpp"
#include "common/time.hpp"

namespace muster {

class NodesControl {
 public:
  // `options.pool_name` empty: made from `endpoint`. `authenticator` outlives this.
  NodesControl(NodePoolOptions options, const std::string& endpoint, Authenticator& authenticator);
  ~NodesControl();  // as NodePool's
  NodesControl(const NodesControl&) = delete;
  NodesControl& operator=(const NodesControl&) = delete;

  // Keeps in this file which nodes are wanted, until finish(), and brings up at once those that
  // stand there: the broker before this one crashed.
  void remember(const std::string& path);
  // Brings up the hosts of a file. Throws std::runtime_error (it cannot be read) or
  // std::invalid_argument (it is wrong, and where).
  void up_file(const std::string& path);
  // Does what came in and what is due. Call in every turn of the loop.
  void step(Scheduler& scheduler, Time now);
  Time next_deadline() const;  // kNever while there are no nodes
  // Readable when step() has something new to do.
  int descriptor() const { return reader_.descriptor(); }
  // Whether a producer asked to end the broker and every node is gone (or had its time).
  bool wants_end() const { return wants_end_; }
  // The broker ends: ends the workers on the nodes too, within a few seconds.
  void finish();

 private:
  bool answer_first(Scheduler& scheduler, Time now);
  message::NodesAnswer up(const message::NodesUp& request, HostsReader::Result&& wanted);
  message::NodesAnswer down(const message::NodesDown& request, Time now);
  void follow(Scheduler& scheduler, Time now);

  void check_tunnels() const;

  const bool has_tunnels_;
  HostsReader reader_;
  NodePool pool_;
  std::optional<WantedNodes> wanted_;
  std::deque<NodeRequest> requests_;  // without answer; the first one's hosts may be being read
  Time next_look_{0};
  bool has_nodes_ = false;
  bool end_asked_ = false;
  Time end_from_{0};
  Time end_by_{0};
  bool wants_end_ = false;
};

// What names this pool on its nodes: the same for every broker of this user on this machine with
// this endpoint.
std::string pool_name(const std::string& endpoint);

}  // namespace muster
