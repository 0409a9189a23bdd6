// Leases of sessions that the broker does not know, as workers report them: it was restarted, and
// their producers are not back yet. Kept as they were said, some 50 bytes for a range, until the
// producer comes, the worker says something else, or the time is over. Part of the scheduler, pure.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "broker/books/task_window.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

// By their first sequences, without those that overlap others: nobody honest says them.
std::vector<LeaseRange> in_order(std::vector<LeaseRange> ranges);
// Whether one of these, as in_order() made them, has the sequence.
bool covers(const std::vector<LeaseRange>& ranges, TaskSequence sequence);

class ReportedLeases {
 public:
  struct Entry {
    SessionId session;
    JobId job{};
    LeaseRange leases;
  };

  // What this worker holds, in place of what it said before.
  void replace(WorkerIndex worker, std::vector<Entry>&& entries, Time until);
  void drop(WorkerIndex worker) { reports_.erase(worker); }
  bool empty() const { return reports_.empty(); }
  // Leases that are reported of this worker.
  std::uint64_t count(WorkerIndex worker) const;
  bool holds(WorkerIndex worker, const SessionId& session, JobId job, TaskSequence sequence,
             Attempt attempt) const;
  // Whether any lease of the job is reported of this worker.
  bool holds_any(WorkerIndex worker, const SessionId& session, JobId job) const;
  // Takes out what is reported of the session by all workers.
  std::vector<std::pair<WorkerIndex, Entry>> take(const SessionId& session);
  // The worker gives these leases back; returns how many of them it had reported. Cost: as the
  // report and the ranges are long.
  std::uint64_t take_back(WorkerIndex worker, const SessionId& session, JobId job,
                          const std::vector<LeaseRange>& leases);
  // All reports hold so much longer.
  void postpone(Duration pause);
  // Takes out what was reported too long ago.
  std::vector<std::pair<WorkerIndex, Entry>> expire(Time now);
  void check_invariants() const;

 private:
  struct Report {
    std::vector<Entry> entries;  // by session, job and first sequence
    std::uint64_t count = 0;     // leases in them
    Time until{0};
  };
  using Entries = std::pair<std::vector<Entry>::const_iterator, std::vector<Entry>::const_iterator>;
  static Entries of_session(const Report& report, const SessionId& session);
  static Entries of_job(const Report& report, const SessionId& session, JobId job);

  std::map<WorkerIndex, Report> reports_;
};

}  // namespace muster
