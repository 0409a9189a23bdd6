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

namespace muster {

class Search {
 public:
  explicit Search(Books& books) : books_(books) {}
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  struct Near {
    WorkerIndex worker = kNoWorker;
    std::int32_t level = 0;
    std::uint64_t missing_bytes = 0;
  };
  // The least loaded worker that may run the job; kNoWorker: none takes leases.
  WorkerIndex best_worker(JobRecord& job);
  // The worker with the least relative load among those with room for the task that are looked at,
  // as the task sees them; of several the one that lacks the fewest bytes. A task that came back
  // goes where its blobs are, if anyone with room has them: that is what it came back for.
  Near find_near(JobRecord& job, const TaskRecord& task);
  // The least loaded of some workers where a task of the demand can start now; null: none of those
  // that were looked at. Among those that are loaded alike, the one that lacks the fewest bytes of
  // the task's blobs.
  const Demand::Candidate* find_room(const JobRecord& job, const TaskRecord& task);
  // The least loaded of some workers where the demand fits; kNoWorker: none takes leases.
  WorkerIndex least_loaded(const Demand& demand) const;
  bool has_room(const Demand& demand, const Demand::Candidate& candidate, std::uint64_t load) const;

 private:
  Books& books_;
  std::uint64_t searches_turn_ = 0;    // the turn of …
  std::uint32_t searches_failed_ = 0;  // … these searches for a worker near a task's blobs
};

// Workers that one search looks at: its cost must not grow with the pool. The next search goes on
// behind them.
inline constexpr std::size_t kLooks = 64;

}  // namespace muster
