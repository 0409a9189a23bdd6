// Leases that outlived a connection, or the broker: what workers report when they connect again,
// and how the tasks are found that these are of. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "broker/books/blob_accounts.hpp"
#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"
#include "broker/scheduling/endings.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class LeaseReports {
 public:
  LeaseReports(Books& books, BlobAccounts& blobs, Endings& endings, OutgoingMessages& out)
      : books_(books), blobs_(blobs), endings_(endings), out_(out) {}
  LeaseReports(const LeaseReports&) = delete;
  LeaseReports& operator=(const LeaseReports&) = delete;

  // Compares the leases that the worker says it holds with those we think it has.
  void reconcile(WorkerIndex index, const std::vector<message::HeldLeases>& held, Time now);
  // The session is here, or must be: what workers reported of it is looked at like any other
  // report.
  void claim(SessionRecord& session, Time now);
  // The worker is lost: what it reported holds no longer, nor its outcomes.
  void forget_worker(WorkerIndex index);
  // Their producers did not come back in time: nobody needs these leases. True: there were any.
  bool expire(Time now);

  // An outcome came before its producer did: from now on there is a record of the session. Null:
  // the worker did not report the job, or too much is kept of it already.
  JobRecord* meet_early(WorkerIndex index, const SessionId& session, JobId job, Time now);
  // Keeps the outcome of a lease whose producer is not back yet, and lets the worker keep it as
  // well. False: it is not of such a lease, or finds no room.
  bool keep_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence, Attempt attempt,
                  Outcome& outcome);
  // The worker gives back these leases of the job, whose producer has not submitted them yet.
  void give_back(WorkerIndex index, JobRecord& job, const std::vector<LeaseRange>& leases);
  // … and these, of a session that is not here.
  void give_back(WorkerIndex index, const message::Returned& message);

  // A task was just submitted. If a worker reported a lease of it before, it is not run again.
  void adopt_or_queue(JobRecord& job, std::uint64_t sequence, TaskRecord& task);
  // The producer resubmitted past these sequences: it has their outcomes, nobody needs the leases.
  void drop_stale(JobRecord& job, std::uint64_t before);

 private:
  void reconcile_job(WorkerIndex index, JobRecord& job, const std::vector<LeaseRange>& held);
  bool reconcile_lease(WorkerIndex index, JobRecord& job, std::uint64_t sequence, Attempt attempt);
  JobRecord& job_of_report(SessionRecord& session, JobId id, Time now);
  bool adopt_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence, Attempt attempt);
  void dismiss(JobRecord& job, std::uint64_t sequence, const AdoptedLease& adopted);
  std::vector<JobKey> withdraw(WorkerIndex index, bool with_outcomes);

  Books& books_;
  BlobAccounts& blobs_;
  Endings& endings_;
  OutgoingMessages& out_;
};

}  // namespace muster
