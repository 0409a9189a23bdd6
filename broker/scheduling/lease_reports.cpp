#include "broker/scheduling/lease_reports.hpp"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

namespace muster {
namespace {

// Leases that one worker may report of sessions which are not here: many times what it may hold.
constexpr std::uint64_t kReportedPrefetch = 4 * std::uint64_t{limits::kMaxPrefetch};

}  // namespace

void LeaseReports::reconcile(WorkerIndex index, const std::vector<message::HeldLeases>& held,
                             Time now) {
  WorkerRecord& worker = books_.worker(index);
  // Leases that the worker does not mention never reached it, or their outcome is lost with it.
  const std::deque<LeaseRun> before = std::exchange(worker.order, {});
  const std::vector<JobKey> withdrawn = withdraw(index, false);
  std::vector<ReportedLeases::Entry> unknown;
  std::uint64_t room = worker.hello.slots + kReportedPrefetch;
  for (const message::HeldLeases& entry : held) {
    SessionRecord* session = books_.find_session(entry.session);
    if (session == nullptr) {  // we have restarted and its producer is not back yet
      for (const LeaseRange& range : entry.leases) {
        if (range.count > room) break;
        room -= range.count;
        unknown.push_back({entry.session, entry.job, range});
      }
      continue;
    }
    if (entry.leases.empty()) continue;
    const bool is_forgotten = session->present && !session->resuming;
    if (books_.find_job(*session, entry.job) == nullptr &&
        (is_forgotten || session->jobs.size() >= limits::kMaxJobs)) {
      out_.send(worker, message::ForgetJob{entry.session, entry.job});
      continue;
    }
    JobRecord& job = job_of_report(*session, entry.job, now);
    reconcile_job(index, job, entry.leases);
  }
  books_.reports().replace(index, std::move(unknown), now + books_.options().session_grace);
  books_.add_reported(index, books_.reports().count(index));
  std::set<std::tuple<JobKey, std::uint64_t>> kept;
  for (const LeaseRun& run : worker.order) {
    for (std::uint64_t i = 0; i < run.count; ++i) kept.insert({run.job, run.first + i});
  }
  for (const LeaseRun& run : before) {
    JobRecord* job = books_.find_job(run.job);
    for (std::uint64_t s = run.first; job != nullptr && s < run.first + run.count; ++s) {
      TaskRecord* task = job->find(s);
      if (!books_.is_open(index, run, task) || kept.count({run.job, s}) != 0) continue;
      endings_.lose_lease(*job, s, *task, false);
    }
  }
  endings_.forget_undeclared(withdrawn);
  books_.settle(index);
}

// The job, which only workers may have spoken of so far.
JobRecord& LeaseReports::job_of_report(SessionRecord& session, JobId id, Time now) {
  if (JobRecord* job = books_.find_job(session, id)) return *job;
  JobRecord& job = books_.make_job(session, id);
  job.unclaimed_since = now;
  return job;
}

void LeaseReports::reconcile_job(WorkerIndex index, JobRecord& job,
                                 const std::vector<LeaseRange>& held) {
  std::vector<LeaseRange> stops;
  std::uint64_t listed = 0;
  for (const LeaseRange& range : held) {
    for (std::uint64_t i = 0; i < range.count; ++i) {
      if (++listed > limits::kMaxHeldLeases) break;
      const std::uint64_t sequence = value(range.first) + i;
      if (!reconcile_lease(index, job, sequence, range.attempt)) {
        stops.push_back({TaskSequence{sequence}, 1, range.attempt});
      }
    }
  }
  if (!stops.empty()) {
    books_.count("leases_refused", stops.size());
    out_.send(books_.worker(index), message::StopTasks{job.session->id, job.id, std::move(stops)});
  }
  job.told.insert(index);  // it knows the job, and must hear when nobody needs it any more
  books_.set_runnable(job);
}

// The worker says that it holds this lease. False: it must stop.
bool LeaseReports::reconcile_lease(WorkerIndex index, JobRecord& job, std::uint64_t sequence,
                                   Attempt attempt) {
  TaskRecord* task = job.find(sequence);
  if (task == nullptr) {
    return sequence >= job.end() && !job.closed && adopt_early(index, job, sequence, attempt);
  }
  const bool same = task->attempts_made > 0 && task->current_attempt() == attempt;
  if (task->state == TaskState::leased && task->worker == index && same) {
    books_.worker(index).append_lease(job.key, sequence, attempt);
    return !task->stopping;
  }
  // Queued again after we lost sight of it, or leased by the broker before us and resubmitted since
  // (also when an older lease ended here meanwhile, to be tried again): still running.
  if (task->state == TaskState::queued &&
      ((same && task->out_of_sight) || task->attempts_made <= value(attempt))) {
    job.unqueue(sequence);
    books_.adopt(job, index, sequence, *task, attempt);
    return true;
  }
  return false;
}

// --- Before the producer is back ----------------------------------------------------------------

// A worker holds a lease of a task that its producer has not submitted again yet. False: it must
// stop, because another's lease stands. The first report does, but not a failure against the lease
// that came after it, in which the task is tried again.
bool LeaseReports::adopt_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence,
                               Attempt attempt) {
  AdoptedLease& adopted = job.adopted[sequence];
  if (adopted.worker == index) return true;
  if (adopted.worker != kNoWorker) {
    const bool has_failed = adopted.outcome && adopted.outcome->status != OutcomeStatus::result;
    if (!has_failed || attempt <= adopted.attempt) return false;
    dismiss(job, sequence, adopted);
  }
  books_.adopt_early(adopted, index, attempt);
  return true;
}

// Nobody needs the lease, nor its outcome: its worker is told so.
void LeaseReports::dismiss(JobRecord& job, std::uint64_t sequence, const AdoptedLease& adopted) {
  books_.drop_adopted(adopted);
  std::vector<LeaseRange> leases{{TaskSequence{sequence}, 1, adopted.attempt}};
  const WorkerRecord& worker = books_.worker(adopted.worker);
  if (adopted.outcome) {
    blobs_.release_stale(*job.session, *adopted.outcome);
    out_.send(worker, message::AcknowledgeLeases{job.session->id, job.id, std::move(leases)});
  } else {
    out_.send(worker, message::StopTasks{job.session->id, job.id, std::move(leases)});
    books_.workers().update_level(adopted.worker);
  }
}

// What the worker reported before holds no longer, its outcomes only if asked for. Returns jobs of
// which nothing else was known: see Endings::forget_undeclared().
std::vector<JobKey> LeaseReports::withdraw(WorkerIndex index, bool with_outcomes) {
  books_.drop_reported(index, books_.reports().count(index));
  books_.reports().drop(index);
  std::vector<JobKey> emptied;
  for (auto& [key, job] : books_.jobs()) {
    const std::size_t count =
        std::erase_if(job->adopted, [&, &session = *job->session](const auto& entry) {
          const AdoptedLease& adopted = entry.second;
          if (adopted.worker != index || (adopted.outcome && !with_outcomes)) return false;
          if (adopted.outcome) blobs_.release_stale(session, *adopted.outcome);
          books_.drop_adopted(adopted);
          return true;
        });
    if (count > 0 && !job->declared && job->adopted.empty()) emptied.push_back(key);
  }
  return emptied;
}

void LeaseReports::forget_worker(WorkerIndex index) {
  endings_.forget_undeclared(withdraw(index, true));
}

void LeaseReports::claim(SessionRecord& session, Time now) {
  if (books_.reports().empty()) return;
  for (const auto& [index, entry] : books_.reports().take(session.id)) {
    books_.drop_reported(index, entry.leases.count);
    reconcile_job(index, job_of_report(session, entry.job, now), {entry.leases});
    books_.settle(index);
  }
}

JobRecord* LeaseReports::meet_early(WorkerIndex index, const SessionId& id, JobId job, Time now) {
  if (!books_.reports().holds_any(index, id, job)) return nullptr;
  if (books_.worker(index).early_bytes + kEarlyOverhead > kMaxEarlyBytes) return nullptr;
  const bool is_new = books_.find_session(id) == nullptr;
  SessionRecord& session = books_.meet_session(id);
  if (is_new) session.away_since = now;
  claim(session, now);
  return books_.find_job(session, job);
}

bool LeaseReports::keep_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence,
                              Attempt attempt, Outcome& outcome) {
  const auto found = job.adopted.find(sequence);
  if (found == job.adopted.end() || found->second.worker != index ||
      found->second.attempt != attempt) {
    return false;
  }
  books_.drop_adopted(found->second);
  if (books_.worker(index).early_bytes + early_bytes_of(outcome) > kMaxEarlyBytes) {
    books_.count("outcomes_early_dropped");
    job.adopted.erase(found);
    return false;
  }
  if (outcome.body.blobs > 0) blobs_.keep_outcome(job, outcome.body, false);
  books_.keep_early(found->second, std::move(outcome));
  return true;
}

void LeaseReports::give_back(WorkerIndex index, JobRecord& job,
                             const std::vector<LeaseRange>& leases) {
  const std::size_t before = job.adopted.size();
  const std::vector<LeaseRange> back = in_order(leases);
  std::erase_if(job.adopted, [&](const auto& entry) {
    const AdoptedLease& lease = entry.second;
    if (lease.worker != index || lease.outcome || !covers(back, TaskSequence{entry.first})) {
      return false;
    }
    books_.drop_adopted(lease);
    return true;
  });
  if (job.adopted.size() < before) endings_.forget_undeclared({job.key});
}

void LeaseReports::give_back(WorkerIndex index, const message::Returned& message) {
  ReportedLeases& reports = books_.reports();
  const std::uint64_t taken =
      reports.take_back(index, message.session, message.job, message.leases);
  books_.drop_reported(index, taken);
  // It may hold the job for ever otherwise: no report is left that could expire.
  if (taken > 0 && !reports.holds_any(index, message.session, message.job)) {
    out_.send(books_.worker(index), message::ForgetJob{message.session, message.job});
  }
}

bool LeaseReports::expire(Time now) {
  const auto expired = books_.reports().expire(now);
  for (std::size_t i = 0; i < expired.size(); ++i) {
    const auto& [index, entry] = expired[i];
    books_.drop_reported(index, entry.leases.count);
    const bool is_last = i + 1 == expired.size() || expired[i + 1].first != index ||
                         expired[i + 1].second.session != entry.session ||
                         expired[i + 1].second.job != entry.job;
    if (!is_last) continue;
    out_.send(books_.worker(index), message::ForgetJob{entry.session, entry.job});
    books_.settle(index);
  }
  return !expired.empty();
}

void LeaseReports::adopt_or_queue(JobRecord& job, std::uint64_t sequence, TaskRecord& task) {
  const auto found = job.adopted.find(sequence);
  if (found == job.adopted.end()) return;
  AdoptedLease adopted = std::move(found->second);
  job.adopted.erase(found);
  job.unqueue(sequence);
  books_.drop_adopted(adopted);
  if (adopted.outcome) {
    books_.count("leases_adopted");
    task.attempts_made = value(adopted.attempt) + 1;
    out_.send(books_.worker(adopted.worker),
              message::AcknowledgeLeases{
                  job.session->id, job.id, {{TaskSequence{sequence}, 1, adopted.attempt}}});
    endings_.conclude(job, sequence, task, std::move(*adopted.outcome));
    return;
  }
  books_.adopt(job, adopted.worker, sequence, task, adopted.attempt);
  books_.workers().update_level(adopted.worker);
  job.told.insert(adopted.worker);
}

void LeaseReports::drop_stale(JobRecord& job, std::uint64_t before) {
  if (job.adopted.empty()) return;
  for (auto entry = job.adopted.begin(); entry != job.adopted.end();) {
    if (entry->first >= before) {
      ++entry;
      continue;
    }
    dismiss(job, entry->first, entry->second);
    entry = job.adopted.erase(entry);
  }
}

}  // namespace muster
