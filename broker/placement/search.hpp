// Finds the worker for a task. Part of placement, pure.
//
// A worker says what is in its cache (WORKER_BLOBS) and fetches what its leases lack; a lease waits
// there meanwhile and takes no slot. So a worker has two loads: that of leases which can start, for
// tasks whose blobs are there or that name none, and that of all its leases, for tasks that would
// have to wait as well. Leases that wait are thereby no more than a worker may have anyway, and it
// runs meanwhile what it can.
#pragma once

#include <cstdint>

#include "broker/books/books.hpp"
#include "broker/placement/policy.hpp"

namespace muster {

class Search {
 public:
  explicit Search(Books& books) : books_(books) {}
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  // The best place, by policy::is_better(), among the workers with room for this task of the job
  // that are looked at: the least loaded of each class; where blobs or resources tell workers of a
  // class apart, some of them. No worker: none of those has room.
  Choice find(JobRecord& job, const TaskRecord& task);
  // The least loaded of those that may run the job and take leases, however full it is; kNoWorker:
  // there is none, or none was looked at.
  WorkerIndex least_loaded(JobRecord& job);

 private:
  bool consider(const JobRecord& job, const TaskRecord& task, Demand::Candidate candidate,
                Choice& best) const;
  void look_in_demand(const JobRecord& job, const TaskRecord& task, Choice& best);
  void look_for_blobs(JobRecord& job, const TaskRecord& task, Choice& best);

  Books& books_;
  std::uint64_t searches_turn_ = 0;    // the turn of …
  std::uint32_t searches_failed_ = 0;  // … these searches for a worker near a task's blobs
};

// Workers that one search looks at: its cost must not grow with the pool. The next search goes on
// behind them.
inline constexpr std::size_t kLooks = 64;

}  // namespace muster
