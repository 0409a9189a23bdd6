// The leases that have not started, in the order in which they came: those that may start, and how
// many wait for blobs. Owned by the agent's books. Pure; one thread.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "worker/agent/held_job.hpp"

namespace muster {

class LeaseQueue {
 public:
  // The lease, which is nowhere yet, may start.
  void push(HeldJob& job, TaskSequence sequence, HeldLease& lease);
  // The lease, which is nowhere yet, waits for blobs.
  void begin_wait(HeldLease& lease);
  // The wait of these has ended: they take their places.
  void end_wait(std::vector<ListedLease>&& leases);
  // The lease, which may start or waits, is here no longer.
  void leave(const HeldLease& lease);

  // The oldest that may start; null: there is none.
  const ListedLease* front();
  // front() starts.
  void pop_front();

  std::size_t queued() const { return queued_; }  // may start
  std::size_t waiting() const { return waiting_; }
  // What has left takes more room than what is here.
  bool wants_purge() const { return items_.size() > 2 * queued_ + 1024; }
  void purge();
  std::size_t listed() const { return items_.size(); }

 private:
  std::deque<ListedLease> items_;  // stale ones among them
  std::size_t queued_ = 0;
  std::size_t waiting_ = 0;
};

}  // namespace muster
