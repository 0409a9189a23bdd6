// The jobs whose leases an agent holds. Owned by the agent's books. Pure; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/protocol/resources.hpp"
#include "worker/agent/held_job.hpp"

namespace muster {

class HeldJobTable {
 public:
  // `shape`: of the worker. What does not fit into it takes all of it.
  explicit HeldJobTable(const Shape& shape) : shape_(shape) {}

  // The broker says what the job is, perhaps again. False: it cannot become that while leases of it
  // are here.
  bool declare(const JobName& name, JobSpec&& spec);
  // The job, or null; stays where it is until purge().
  HeldJob* find(const JobName& name);
  // The same, null also for a job that the broker told to forget.
  HeldJob* known(const JobName& name);
  // Frees forgotten jobs that hold nothing, and with `idle_ones` every job that holds nothing.
  // Appends their names to `freed`.
  void purge(bool idle_ones, std::vector<JobName>& freed);

  const HeldJobs& all() const { return jobs_; }

 private:
  void set_spec(HeldJob& job, JobSpec&& spec) const;

  const Shape shape_;
  HeldJobs jobs_;
  HeldJob* last_ = nullptr;  // the last one looked up
  std::uint64_t next_serial_ = 0;
};

}  // namespace muster
