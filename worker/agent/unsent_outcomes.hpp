// Finished leases whose outcomes are due on this connection. Owned by the agent's books. Pure; one
// thread.
#pragma once

#include <cstddef>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "worker/agent/held_job.hpp"

namespace muster {

class UnsentOutcomes {
 public:
  // `window`: AgentOptions::outcome_window.
  explicit UnsentOutcomes(Duration window) : window_(window) {}

  void note(HeldJob& job, TaskSequence sequence, Time now);
  // Every outcome that is still held, after a WELCOME.
  void note_all(const HeldJobs& jobs);
  void forget(const HeldJob& job);
  void purge();  // of leases that are finished no longer
  void clear() { items_.clear(); }

  // Whether it is too early to say them; `has_work`: every slot has, and more is queued.
  bool may_wait(bool has_work, Time now) const;
  Time deadline() const { return items_.empty() ? kNever : since_ + window_; }
  // Appends them, in as few messages as the limits permit, and is empty.
  void say(std::vector<Message>& messages);

 private:
  struct Item {
    HeldJob* job;
    TaskSequence sequence;
  };
  const Duration window_;
  std::vector<Item> items_;
  Time since_{};  // when the oldest of them was noted
};

}  // namespace muster
