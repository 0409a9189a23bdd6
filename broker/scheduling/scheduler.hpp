// The broker's decisions: a thin face over the books (broker/books), over what messages do
// (reactor.hpp) and over placement (broker/placement). Pure: it is handed events and the time, and
// returns messages; it never reads a clock, a socket or a file. docs/protocol.md says what every
// message does.
//
// Owner: the broker's loop, or the simulator. Threads: one at a time.
// Cost: O(1) per task, O(log jobs) per batch of leases, independent of the number of workers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/placement/explain.hpp"
#include "broker/placement/placement.hpp"
#include "broker/scheduling/reactor.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class Scheduler {
 public:
  Scheduler(SchedulerOptions options, Time now);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // --- Events ---
  // Who greets, with a greeting: `user` on a connection that is not local, where only workers may;
  // `local` on the others.
  void receive(PeerId peer, Message&& message, Time now, const RemoteUser* user = nullptr,
               const LocalUser& local = {});
  // Whether nothing that this peer says counts any more: it was refused. Its message is counted.
  bool ignores(PeerId peer, Time now);
  // A message of this peer could not be decoded.
  void malformed(PeerId peer, message::RefuseCode code, const std::string& reason, Time now);
  // A send failed: the connection is gone.
  void disconnected(PeerId peer, Time now);
  // A send failed: the peer does not read, but its connection lives. A producer keeps what it has
  // (it may be stopped); it is told nothing more until it says HELLO. False: that was so already.
  bool not_reading(PeerId peer, Time now);
  // This remote user may no longer work here: its workers are refused.
  void revoke(const std::string& user);
  void tick(Time now);
  Time next_deadline() const;

  // Leases what can be leased, then returns every message to send. Call after each burst of events.
  std::vector<Outgoing> take_outgoing(Time now);

  // --- Nodes
  // Requests that came since the last call; answer() each.
  std::vector<NodeRequest> take_node_requests() {
    return std::exchange(reactor_.node_requests, {});
  }
  // Dropped when that producer is gone.
  void answer(PeerId peer, message::NodesAnswer&& answer);
  // STATUS shows these from now on, each with the round trip of the worker on it.
  void set_nodes(std::vector<message::NodeStatus> rows) {
    reactor_.status.set_nodes(std::move(rows));
  }

  // --- Stores of computed values: not the scheduler's to answer
  using StoreEvent = muster::StoreEvent;
  // Questions that came since the last call, and the sessions and workers that are no more.
  std::vector<StoreEvent> take_store_events() { return reactor_.stores.take_events(); }
  // Dropped while that peer is away: it asks again when it is back.
  void answer(const StoreOrigin& origin, message::StoreAnswer&& answer) {
    reactor_.stores.answer(origin, std::move(answer));
  }

  // --- Blobs: what the mover of their bytes needs to know
  struct WorkerName {
    WorkerId id;
    std::string user;  // empty: the broker's own
    bool shares = false;
  };
  // The worker behind this connection; nothing when there is none.
  std::optional<WorkerName> worker_at(PeerId peer) const;
  // A connected or missed worker of this id.
  std::optional<WorkerName> worker_named(const WorkerId& id) const;
  // Whether anything is known of this connection but that it was told UNKNOWN.
  bool knows(PeerId peer) const;
  // Whether the outcome of this lease would be taken.
  bool expects_outcome(const WorkerId& worker, const SessionId& session, JobId job,
                       TaskSequence sequence, Attempt attempt) const;
  // Outcomes of a worker whose blobs are all here.
  void deliver(const WorkerId& worker, message::WorkerOutcomes&& outcomes, Time now);
  // What STATUS says beside the counters.
  void count(const std::string& name) { reactor_.books.count(name); }
  void set_gauge(const std::string& name, std::uint64_t number) {
    reactor_.status.set_gauge(name, number);
  }
  // Tells a connection on which only blobs travel what it did wrong, and ignores it from now on.
  void refuse_bulk(PeerId peer, message::RefuseCode code, std::string text, Time now);
  const SchedulerOptions& options() const { return reactor_.books.options(); }

  // --- Views ---
  message::Status status(Time now) const { return reactor_.status.at(now); }
  // What STATUS calls this session; empty: there is none.
  std::string shown(const SessionId& id) const;
  const std::map<std::string, std::uint64_t>& counters() const { return reactor_.books.counters(); }
  std::uint64_t counter(const std::string& name) const { return reactor_.books.counter(name); }
  // A count that others keep; absent from counters() until it is not 0.
  void set_counter(const std::string& name, std::uint64_t count);
  std::uint64_t tasks_held() const;
  // Whether only workers speak of this job so far: they are told nothing of their leases until the
  // producer does.
  bool waits_for_producer(const SessionId& session, JobId job) const;
  // Aborts if any of the tables contradict each other. O(everything): for tests and simulation.
  void check_invariants() const;

 private:
  void hear(Peer& peer, PeerId id, Message&& message, Time now);
  void hear_heartbeat(const Peer& peer, PeerId id, const message::Heartbeat& beat, Time now);
  void refuse(PeerId peer, message::Refuse&& refusal, Time now);
  void review_jobs(Time now);
  void announce_pool();

  Reactor reactor_;
  Placement placement_{reactor_.books, reactor_.out};
  Explain explain_{reactor_.books};
  Time next_tick_;
  Time last_tick_;
};

}  // namespace muster
