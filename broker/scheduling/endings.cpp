#include "broker/scheduling/endings.hpp"

#include <memory>
#include <string>
#include <utility>

#include "common/protocol/codec.hpp"

namespace muster {

void Endings::end_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                       Outcome&& outcome) {
  books_.end(job, task, std::move(outcome));
  if (task.data.blobs > 0) blobs_.keep_outcome(job, task.data, true);
  if (task.data.blobs > 0 || job.mean_result_bytes > 0 || job.told_bytes > 0) {
    blobs_.count_result(job, task.status, task.data);
  }
  delivery_.add(job, sequence);
}

void Endings::fail_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                        OutcomeStatus status, const Failure& failure) {
  if (!job.last_failure || job.last_failure->status != status ||
      job.last_failure->failure != failure) {
    job.last_failure = std::make_unique<SharedFailure>(
        SharedFailure{status, failure, failed(status, failure).body});
  }
  end_task(job, sequence, task, {status, job.last_failure->body});
}

void Endings::fail_queued(JobRecord& job, const Failure& failure) {
  job.each([&](std::uint64_t sequence, TaskRecord& task) {
    if (task.state != TaskState::queued) return;
    job.unqueue(sequence);
    fail_task(job, sequence, task, OutcomeStatus::error, failure);
  });
  books_.set_runnable(job);
}

void Endings::end_if_lost(JobRecord& job, std::uint64_t sequence, TaskRecord& task) {
  if (task.state != TaskState::queued) return;
  std::string reason = blobs_.lost_blob(job.spec.function.body);
  if (reason.empty()) reason = blobs_.lost_blob(task.data);
  if (reason.empty()) return;
  books_.count("tasks_without_blobs");
  job.unqueue(sequence);
  fail_task(job, sequence, task, OutcomeStatus::error, {"blob_lost", std::move(reason), "", {}});
}

// The outcome as it can be told: a result whose blobs did not arrive is none.
void Endings::check_outcome_blobs(Outcome& outcome) {
  std::string reason = blobs_.lost_blob(outcome.body);
  if (reason.empty()) return;
  books_.count("outcomes_without_blobs");
  outcome = failed(OutcomeStatus::error,
                   {"blob_lost", "the result came without its data: " + std::move(reason), "", {}});
}

void Endings::conclude(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                       Outcome&& outcome) {
  if (outcome.body.blobs > 0) check_outcome_blobs(outcome);
  const bool failed =
      outcome.status == OutcomeStatus::error || outcome.status == OutcomeStatus::timed_out;
  if (failed && !task.stopping && task.failures < job.spec.retries && task.failures < UINT16_MAX) {
    ++task.failures;
    books_.count("tasks_retried");
    task.out_of_sight = false;
    books_.requeue(job, sequence, task);
    return;
  }
  end_task(job, sequence, task, std::move(outcome));
}

void Endings::lose_lease(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                         bool was_running) {
  books_.close_lease(job, task);
  if (was_running) {
    ++task.losses;
    books_.count("leases_lost");
  }
  if (task.stopping) {
    fail_task(job, sequence, task, OutcomeStatus::cancelled, {"cancelled", "cancelled", "", {}});
  } else if (task.losses >= job.spec.crash_budget) {
    fail_task(job, sequence, task, OutcomeStatus::lost,
              {"lost",
               "every worker that ran this task was lost, " + std::to_string(task.losses) +
                   " in all: it most likely kills its worker; use the process executor to "
                   "contain it, or raise crash_budget if the machines were at fault",
               "",
               {}});
  } else {
    books_.requeue(job, sequence, task);
  }
}

void Endings::forget_job(JobRecord& job) {
  books_.close_job(job);
  for (const auto& [sequence, adopted] : job.adopted) {
    job.told.insert(adopted.worker);
    books_.drop_adopted(adopted);
    if (adopted.outcome) blobs_.release_stale(*job.session, *adopted.outcome);
  }
  job.told.each([&](WorkerIndex index) {
    books_.settle(index);
    out_.send(books_.worker(index), message::ForgetJob{job.session->id, job.id});
  });
  books_.remove_job(job);
}

void Endings::forget_undeclared(const std::vector<JobKey>& keys) {
  for (const JobKey key : keys) {
    JobRecord* job = books_.find_job(key);
    if (job != nullptr && !job->declared && job->adopted.empty()) forget_job(*job);
  }
}

}  // namespace muster
