// The agent: decides what a worker does. It holds the worker's leases, gives them to an executor in
// the order in which they came, keeps outcomes until the broker has them, and keeps the link alive.
//
// Owned by the worker's loop, which carries out its actions; the simulator drives the same calls.
// Pure: no clock, socket, thread or log; `now` is monotonic and never goes back. One thread.
//
// Contract with the executor: every TaskStart ends in exactly one `finished` or `handed_back`, also
// after a stop or a recall. It runs at most `slots` tasks at once, in the order of the starts. A
// task that takes several slots or accelerators is started when these are free, so that it never
// waits inside the executor, and nothing waits behind it there.
//
// A lease that names blobs starts when they are here; others start before it. On the broker's
// machine tasks use the broker's own files, and nothing waits (`set_sharing`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "worker/agent/agent_options.hpp"
#include "worker/agent/blob_request.hpp"
#include "worker/agent/lease.hpp"
#include "worker/agent/lease_books.hpp"

namespace muster {

class Agent {
 public:
  explicit Agent(AgentOptions options);

  // The link is up, for the first time or again: says HELLO. No effect once refused.
  void connected(Time now);
  // The connection was given up on purpose: nothing is said until the next one.
  void disconnected(Time now);
  // Counts from the next connection on.
  void set_proof(std::string proof) { options_.proof = std::move(proof); }
  // Any message in any state; what makes no sense is dropped and counted.
  void receive(Message&& message, Time now);
  // The executor's reports. What tasks said comes before their ends; without a broker it is lost.
  void said(std::vector<message::WorkerOutput>&& outputs, Time now);
  void finished(std::vector<TaskFinish>&& tasks, Time now);
  void handed_back(const std::vector<Lease>& leases, Time now);
  void set_stuck(std::uint32_t slots, Time now);
  // Why no task may start for a while, empty: they may. What has not started goes back.
  void set_paused(const std::string& reason, Time now);

  // Whether tasks use the broker's own files of blobs. Says so after the next WELCOME, or at once.
  void set_sharing(bool shares, Time now);
  // The cache's reports about blobs that Actions::blobs asked for.
  void blob_here(const BlobId& id, Time now);
  void blob_gone(const BlobId& id, const std::string& reason, Time now);
  void report(std::vector<BlobReport>&& reports, Time now);

  // No new leases from now on: what has not started goes back, what runs may end.
  void drain(Time now);
  // Nothing is held and everything was acknowledged.
  bool idle() const { return books_.is_empty(); }
  // Jobs that it knows: it forgets them when the broker says so.
  std::size_t jobs() const { return books_.jobs(); }

  void tick(Time now);
  Time next_deadline() const;

  enum class Link {
    up,        // the broker said WELCOME
    waiting,   // not connected yet, or HELLO is on its way
    silent,    // nothing was heard for too long: make a new connection, then call `connected`
    stranger,  // who answered is not our broker: end the connection, make a new one later
    refused,   // for good: `refusal` says why
  };
  Link link() const { return link_; }
  const std::string& refusal() const { return refusal_; }
  Duration heartbeat_interval() const { return heartbeat_interval_; }
  bool pack() const { return pack_; }  // WELCOME's `pack`
  std::uint64_t dropped_messages() const { return dropped_messages_; }
  std::uint64_t tasks_done() const { return books_.tasks_done(); }
  std::uint64_t dropped_lines() const { return dropped_lines_; }

  struct Actions {
    std::vector<Message> messages;  // in this order
    std::vector<JobName> forgets;   // before the starts, which may be of a new job of that number
    std::vector<TaskStart> starts;
    std::vector<Lease> stops;        // end these, started or not; each still gets `finished`
    std::vector<Lease> recalls;      // hand these back unless they have started
    std::vector<BlobRequest> blobs;  // in this order, before the messages
    bool empty() const {
      return messages.empty() && forgets.empty() && starts.empty() && stops.empty() &&
             recalls.empty() && blobs.empty();
    }
  };
  // What is to be done now. Call it after any of the calls above, and as long as it is not empty.
  Actions take_actions();

  // Ends the process with a message when the agent's own books do not agree.
  void check_invariants() const;

 private:
  void handle(message::Welcome& m);
  void handle(message::Refuse& m);
  void handle(message::Unknown& m);
  void handle(message::Heartbeat& m);
  bool is_deaf() const;
  void set_now(Time now);
  void say_hello();

  AgentOptions options_;
  Link link_ = Link::waiting;
  std::string refusal_;
  bool greeted_ = false;  // HELLO was said on this connection
  bool pack_ = false;
  bool draining_ = false;
  bool state_changed_ = false;  // WORKER_STATE is due
  std::string paused_;
  Duration heartbeat_interval_;
  std::uint32_t heartbeat_misses_;
  Time now_{};  // of the latest call
  Time last_heard_{};
  Time last_sent_{};

  LeaseBooks books_;
  std::vector<Message> outbox_;
  std::uint64_t dropped_messages_ = 0;
  std::uint64_t dropped_lines_ = 0;
};

}  // namespace muster
