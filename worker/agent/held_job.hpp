// A job whose leases an agent holds, and the places of these leases in its lists. Plain values,
// owned by the agent's books; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "worker/agent/lease.hpp"
#include "worker/agent/lease_table.hpp"

namespace muster {

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

using HeldJobs = std::unordered_map<JobName, std::unique_ptr<HeldJob>>;

// A lease in a list that nobody tells when the lease moves on.
struct ListedLease {
  HeldJob* job;
  TaskSequence sequence;
  std::uint64_t order;

  // Whether the lease is no longer in the state in which it was listed.
  bool is_stale(LeaseState state) const {
    const HeldLease* lease = job->leases.find(sequence);
    return lease == nullptr || lease->state != state || lease->order != order;
  }
};

inline Lease executor_lease(const HeldJob& job, TaskSequence sequence, const HeldLease& lease) {
  return {job.name.session, job.name.job, sequence, lease.executor_attempt};
}

}  // namespace muster
