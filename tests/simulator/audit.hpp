// The account of every task of the simulated world: how often it ran, and which losses explain that
// it ran again. Whoever repeats work without a reason, or leases what was cancelled, is found out.
// Owner: one World; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "common/protocol/ids.hpp"

namespace muster::simulator {

class Audit {
 public:
  using TaskName = std::tuple<SessionId, std::uint32_t, std::uint64_t>;  // session, job, sequence

  // A run begins. Returns what is wrong about that; empty: nothing.
  std::string begin(const TaskName& task);
  // A run ended with an outcome, which its worker has until the broker acknowledged it.
  void finish(const TaskName& task) { fates_[task].finished = true; }
  // Its producer has its outcome: no later loss explains another run.
  void deliver(const TaskName& task) { fates_[task].delivered = true; }
  bool is_delivered(const TaskName& task) const {
    const auto found = fates_.find(task);
    return found != fates_.end() && found->second.delivered;
  }

  // --- What explains one more run.
  // A worker is lost, or lost from sight, that has begun it and may still have its outcome.
  void lose(const TaskName& task);
  // This run itself is one that nobody waits for, or that ended in an error which is tried again.
  void excuse(const TaskName& task) { ++fates_[task].excuses; }
  // The broker died, with outcomes that it had acknowledged to workers and not delivered.
  void broker_dies();
  // The broker ended this session, because its producer stayed away beyond the grace time.
  void session_ends(const SessionId& session);
  // … and its producer is back: from now on nothing runs again without another reason.
  void session_returns(const SessionId& session) { ended_.erase(session); }

  // --- Cancelled tasks
  void cancel(const TaskName& task) { fates_[task].cancelled = true; }
  // The broker leases it. Returns what is wrong about that; empty: nothing.
  std::string lease(const TaskName& task) const;

 private:
  struct Fate {
    std::uint32_t runs = 0;
    std::uint32_t excuses = 0;
    bool finished = false;
    bool delivered = false;
    bool cancelled = false;  // the present broker was told
  };
  std::map<TaskName, Fate> fates_;
  std::set<SessionId> ended_;
};

// "job 2 task 17", for messages about failures.
std::string name_of(const Audit::TaskName& task);

}  // namespace muster::simulator
