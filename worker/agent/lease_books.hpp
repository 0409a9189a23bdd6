// An agent's books: the leases that the broker gave to this worker, in whatever state they are, and
// what follows for the executor, the cache of blobs and the broker. All that changes a lease is
// here.
//
// Owned by the agent, which passes on what it hears and fetches what is to be done. Pure; one
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "worker/agent/agent_options.hpp"
#include "worker/agent/blob_request.hpp"
#include "worker/agent/executor_load.hpp"
#include "worker/agent/held_job.hpp"
#include "worker/agent/held_jobs.hpp"
#include "worker/agent/lease.hpp"
#include "worker/agent/lease_blobs.hpp"
#include "worker/agent/lease_queue.hpp"
#include "worker/agent/unsent_outcomes.hpp"

namespace muster {

class LeaseBooks {
 public:
  explicit LeaseBooks(const AgentOptions& options);

  // The time of all that follows, until the next call.
  void set_now(Time now) { now_ = now; }

  // --- What the broker says. False: it makes no sense.
  bool hear(message::WorkerJob& m);
  bool hear(message::Tasks& m);
  bool hear(message::AcknowledgeLeases& m);
  bool hear(message::Recall& m);
  bool hear(message::StopTasks& m);
  bool hear(message::ForgetJob& m);

  // --- What the executor reports
  void finished(std::vector<TaskFinish>&& tasks);
  void handed_back(const std::vector<Lease>& leases);
  bool set_stuck(std::uint32_t slots) { return load_.set_stuck(slots); }  // false: as before
  std::uint32_t stuck() const { return load_.stuck(); }
  bool forwards_output(const JobName& name);  // whether somebody wants what its tasks say

  // --- What the worker is to do with leases
  // New ones go back from now on, or no longer.
  void set_accepting(bool accepts) { accepts_ = accepts; }
  // So does all that has not started.
  void return_unstarted();

  // --- Blobs
  void set_sharing(bool shares);
  void blob_here(const BlobId& id) { queue_.end_wait(blobs_.here(id)); }
  void blob_gone(const BlobId& id, const std::string& reason);
  void report(const std::vector<BlobReport>& reports);

  // --- The link
  // A HELLO is to be said: returns what it lists. Nothing else is to be said until resend().
  std::vector<message::HeldLeases> begin_hello();
  // The broker answered it.
  void resend();

  // --- What is to be done
  // Starts what may start. Call it before the others.
  void settle();
  // Appends what the broker is to be told.
  void say(std::vector<Message>& messages);
  std::vector<JobName> take_forgets() { return std::exchange(forgets_, {}); }
  std::vector<TaskStart> take_starts() { return std::exchange(starts_, {}); }
  std::vector<Lease> take_stops() { return std::exchange(stops_, {}); }
  std::vector<Lease> take_recalls() { return std::exchange(recalls_, {}); }
  std::vector<BlobRequest> take_requests() { return blobs_.take_requests(); }
  // When say() will say outcomes that it holds back now.
  Time next_outcomes() const { return unsent_.deadline(); }

  bool is_empty() const { return held_ == 0 && returns_.empty(); }
  std::size_t jobs() const { return jobs_.all().size(); }
  std::uint64_t tasks_done() const { return tasks_done_; }
  // CHECKs that they agree. Slow: tests only.
  void check_invariants() const;

 private:
  void accept(HeldJob& job, TaskSequence sequence, Attempt attempt, Payload&& payload);
  void replace(HeldJob& job, TaskSequence sequence, HeldLease& lease, Attempt attempt,
               Payload&& payload);
  void stop(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void recall(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void forget(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void hand_back(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void enqueue(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void start_waiting(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  void finish(HeldJob& job, TaskSequence sequence, HeldLease& lease, Outcome&& outcome,
              Duration busy);
  void drop(HeldJob& job, TaskSequence sequence);
  void give_back(const JobName& name, TaskSequence sequence, Attempt attempt);

  HeldLease* executed(const Lease& lease, HeldJob*& job);
  void purge_jobs(bool idle_ones);
  void fill_executor();

  const std::string node_;
  Time now_{};
  bool accepts_ = true;

  HeldJobTable jobs_;
  std::uint64_t next_order_ = 0;
  std::size_t held_ = 0;
  bool purge_due_ = false;
  LeaseQueue queue_;
  ExecutorLoad load_;
  LeaseBlobs blobs_;

  UnsentOutcomes unsent_;
  std::vector<Lease> returns_;
  std::vector<JobName> forgets_;
  std::vector<TaskStart> starts_;
  std::vector<Lease> stops_;
  std::vector<Lease> recalls_;
  std::uint64_t tasks_done_ = 0;
};

}  // namespace muster
