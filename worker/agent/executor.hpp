// The seam between the agent's decisions and what runs tasks: threads, child processes, commands.
//
// Owned by the worker's loop; every call comes from its thread and none of them blocks. Contract:
// every task that was started ends in exactly one `finished` or `handed_back`. Its destructor ends
// whatever runs, without an outcome.
#pragma once

#include <cstdint>
#include <vector>

#include "common/time.hpp"
#include "worker/agent/lease.hpp"

namespace muster {

class Executor {
 public:
  struct Results {
    std::vector<message::WorkerOutput> outputs;  // said before what `finished` reports
    std::vector<TaskFinish> finished;
    std::vector<Lease> handed_back;  // had not started and will not
    std::uint32_t stuck_slots = 0;   // held by tasks that ended for everybody else
    Time next_poll = kNever;         // call `poll` then even when the descriptor stays silent
  };

  virtual ~Executor() = default;

  // Runs the tasks in this order, at most as many at once as there are slots.
  virtual void start(std::vector<TaskStart>&& tasks) = 0;
  // Ends tasks, started or not: each finishes as cancelled unless it is quicker.
  virtual void stop(const std::vector<Lease>& leases) = 0;
  // Hands back those of the leases that have not started; ignores the others.
  virtual void recall(const std::vector<Lease>& leases) = 0;
  // All tasks of these jobs have ended, and no more will come: frees what is kept for them.
  virtual void forget(const std::vector<JobName>& jobs) = 0;
  // What happened since the last call. `now` is steady_clock's.
  virtual Results poll(Time now) = 0;
  // Readable when `poll` has something to do.
  virtual int wake_descriptor() const = 0;
};

}  // namespace muster
