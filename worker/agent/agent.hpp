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

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "worker/agent/blob_request.hpp"
#include "worker/agent/lease.hpp"
#include "worker/agent/lease_table.hpp"

namespace muster {

struct AgentOptions {
  WorkerId worker;       // random, new at every start of the daemon
  std::string node;      // host name
  std::string executor;  // "thread" or "process"
  std::uint32_t process_id = 0;
  std::uint32_t slots = 1;
  std::uint32_t cores = 1;         // that this process may use
  std::uint64_t memory_bytes = 0;  // that its tasks may use together; 0: not known
  std::uint32_t gpus = 0;
  std::vector<std::string> labels;
  std::string python;  // "3.11": runs python functions on it; empty: none
  bool runs_commands = true;
  std::vector<std::string> functions;  // native functions offered
  // Not empty: nobody is obeyed, nor told more than HELLO, before a WELCOME with this text.
  std::string proof;
  // The executor gets this much work per slot ahead of time: more than the loop's round trip, so
  // that slots never wait for it, and little enough that a RECALL still finds the rest unstarted.
  Duration start_window = std::chrono::milliseconds(1);
  // Outcomes wait for others up to this long while every slot has work and more is queued here:
  // nobody is idle for want of them, and a message for several costs each a fraction.
  Duration outcome_window = std::chrono::milliseconds(3);
};

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
  bool idle() const { return held_ == 0 && returns_.empty(); }
  // Jobs that it knows: it forgets them when the broker says so.
  std::size_t jobs() const { return jobs_.size(); }

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
  std::uint64_t tasks_done() const { return tasks_done_; }
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
  struct HeldJob {
    JobName name;
    std::uint64_t serial = 0;  // orders jobs by arrival
    std::shared_ptr<const JobSpec> spec;
    LeaseTable leases;
    Duration mean{};  // moving mean of its tasks' busy times
    bool mean_known = false;
    bool demanding = false;   // its tasks ask for more than a slot each
    std::uint32_t width = 1;  // slots that each of them takes
    std::uint32_t gpus = 0;
    bool forgotten = false;  // stays only until the executor let go of its tasks
  };
  struct QueueItem {  // stale unless the lease is queued and has the same order
    HeldJob* job;
    TaskSequence sequence;
    std::uint64_t order;
  };
  struct OutcomeItem {
    HeldJob* job;
    TaskSequence sequence;
  };
  struct BlobUse {
    BlobName name;
    std::size_t leases = 0;  // that need it
    bool here = false;
    std::vector<QueueItem> waiters;  // stale unless the lease waits and has the same order
  };
  static constexpr std::size_t kKinds = 3;

  void handle(message::Welcome& m);
  void handle(message::Refuse& m);
  void handle(message::Unknown& m);
  void handle(message::Heartbeat& m);
  void handle(message::WorkerJob& m);
  void handle(message::Tasks& m);
  void handle(message::AcknowledgeLeases& m);
  void handle(message::Recall& m);
  void handle(message::StopTasks& m);
  void handle(message::ForgetJob& m);

  void accept(HeldJob& job, TaskSequence sequence, Attempt attempt, Payload&& payload);
  void replace(HeldJob& job, TaskSequence sequence, HeldLease& lease, Attempt attempt,
               Payload&& payload);
  void stop(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void recall(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void forget(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void hand_back(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void enqueue(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void finish(HeldJob& job, TaskSequence sequence, HeldLease& lease, Outcome&& outcome,
              Duration busy);
  void drop(HeldJob& job, TaskSequence sequence);
  void give_back(const JobName& name, TaskSequence sequence, Attempt attempt);
  void leave_queue(const HeldLease& lease);
  static bool is_stale(const QueueItem& item, LeaseState state);

  // --- Blobs (agent_blobs.cpp)
  void ask(BlobRequest::Kind kind, const BlobName& name);
  void ask_for_each(BlobRequest::Kind kind, const Payload& payload);
  void take_needs(const HeldJob& job, HeldLease& lease);
  void release_needs(std::unique_ptr<LeaseNeeds> needs);
  void start_waiting(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void end_waiting(std::vector<QueueItem>&& items);
  void blob_blocked(const BlobReport& report);
  void blob_evicted(const BlobId& id);
  void fail_blocked();
  void discard_outcome(const HeldLease& lease);
  void say_blobs_anew();
  void flush_blobs();
  void check_blobs() const;

  HeldLease* executed(const Lease& lease, HeldJob*& job);
  void set_spec(HeldJob& job, JobSpec&& spec);
  bool may_start(const HeldJob& job) const;
  std::vector<std::uint32_t> take_devices(const HeldJob& job, const Lease& lease);
  bool takes_leases() const { return !draining_ && paused_.empty(); }
  void return_unstarted();
  HeldJob* find_job(const JobName& name);
  HeldJob* known_job(const JobName& name);
  void purge_jobs(bool idle_ones);
  static std::size_t kind_of(const JobSpec& spec) {
    return static_cast<std::size_t>(spec.function.kind);
  }
  static Lease executor_lease(const HeldJob& job, TaskSequence sequence, const HeldLease& lease);
  static void append_lease(std::vector<LeaseRange>& ranges, TaskSequence sequence, Attempt attempt);

  bool is_deaf() const;
  void say_hello();
  std::vector<message::HeldLeases> list_held();
  void resend_outcomes();
  void learn(HeldJob& job, const TaskFinish& task);
  std::uint64_t allowance(const HeldJob& job) const;
  void fill_executor();
  bool may_wait() const;
  void flush_outcomes();
  void flush_returns();

  AgentOptions options_;
  Link link_ = Link::waiting;
  std::string refusal_;
  bool greeted_ = false;  // HELLO was said on this connection
  bool pack_ = false;
  bool draining_ = false;
  bool state_changed_ = false;  // WORKER_STATE is due
  std::uint32_t stuck_ = 0;
  std::string paused_;
  Duration heartbeat_interval_;
  std::uint32_t heartbeat_misses_;
  Time now_{};  // of the latest call
  Time last_heard_{};
  Time last_sent_{};

  std::unordered_map<JobName, std::unique_ptr<HeldJob>> jobs_;
  HeldJob* last_job_ = nullptr;  // the last one looked up
  std::deque<QueueItem> queue_;
  std::uint64_t next_order_ = 0;
  std::uint64_t next_serial_ = 0;
  std::size_t held_ = 0;
  std::size_t queued_ = 0;
  std::size_t waiting_ = 0;
  std::array<std::size_t, kKinds> in_executor_{};  // by function kind
  // Of the tasks in the executor: those that ask for more than a slot, and what they take of slots
  // beyond the first.
  std::size_t demanding_ = 0;
  std::size_t extra_slots_ = 0;
  std::vector<bool> device_taken_;                                 // by accelerator
  std::unordered_map<Lease, std::vector<std::uint32_t>> devices_;  // of the tasks in the executor
  bool purge_due_ = false;

  bool shares_ = false;
  std::unordered_map<BlobId, BlobUse> uses_;     // of leases; none while `shares_`
  std::unordered_map<BlobId, BlobName> cached_;  // what the broker knows, or will, to be here
  std::vector<BlobName> added_;                  // what changed of it since WORKER_BLOBS
  std::vector<BlobId> removed_;
  std::size_t waiting_said_ = 0;  // in the last WORKER_BLOBS
  bool blobs_changed_ = false;    // WORKER_BLOBS is due
  std::size_t kept_results_ = 0;  // finished leases with blobs
  std::uint64_t releases_ = 0;    // releases and drops asked for
  BlobReport blocked_;            // its `blob` is zero: nothing is

  std::vector<BlobRequest> requests_;
  std::vector<Message> outbox_;
  std::vector<OutcomeItem> unsent_;  // finished, and due on this connection
  Time unsent_since_{};              // when the oldest of them was noted
  std::vector<Lease> returns_;
  std::vector<JobName> forgets_;
  std::vector<TaskStart> starts_;
  std::vector<Lease> stops_;
  std::vector<Lease> recalls_;
  std::uint64_t dropped_messages_ = 0;
  std::uint64_t tasks_done_ = 0;
  std::uint64_t dropped_lines_ = 0;
};

}  // namespace muster
