// What becomes of a task when its attempt ends, and of a job that nobody needs. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "broker/books/blob_accounts.hpp"
#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"
#include "broker/scheduling/outcome_delivery.hpp"
#include "common/protocol/message.hpp"

namespace muster {

class Endings {
 public:
  Endings(Books& books, BlobAccounts& blobs, OutcomeDelivery& delivery, OutgoingMessages& out)
      : books_(books), blobs_(blobs), delivery_(delivery), out_(out) {}
  Endings(const Endings&) = delete;
  Endings& operator=(const Endings&) = delete;

  // An attempt has its outcome: the task runs again if it failed and may, else it has ended. It has
  // no lease any more.
  void conclude(JobRecord& job, std::uint64_t sequence, TaskRecord& task, Outcome&& outcome);
  // The task ends here, not at a worker. Many of a job do so at once and for one reason.
  void fail_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task, OutcomeStatus status,
                 const Failure& failure);
  // All queued tasks of the job end so.
  void fail_queued(JobRecord& job, const Failure& failure);
  // Ends a task that was just submitted and cannot run, because its blobs or those of its job's
  // body are not here.
  void end_if_lost(JobRecord& job, std::uint64_t sequence, TaskRecord& task);
  // A lease ends without an outcome. The task goes back to the head of the queue, or ends:
  // cancelled if that was asked, lost if its crash budget is spent.
  void lose_lease(JobRecord& job, std::uint64_t sequence, TaskRecord& task, bool was_running);
  // Ends a job: what is left of it is dropped here and on every worker that knows it.
  void forget_job(JobRecord& job);
  // Those of these of which nothing is known but what workers reported, and that no longer.
  void forget_undeclared(const std::vector<JobKey>& keys);

 private:
  void end_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task, Outcome&& outcome);
  void check_outcome_blobs(Outcome& outcome);

  Books& books_;
  BlobAccounts& blobs_;
  OutcomeDelivery& delivery_;
  OutgoingMessages& out_;
};

}  // namespace muster
