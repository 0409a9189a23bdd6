// Leases that outlived a connection, or the broker: what workers report when they connect again,
// and how the tasks are found that these are of.
#include <algorithm>
#include <utility>

#include "broker/scheduling/scheduler.hpp"

namespace muster {
namespace {

// Leases that one worker may report of sessions which are not here: many times what it may hold.
constexpr std::uint64_t kReportedPrefetch = 4 * std::uint64_t{limits::kMaxPrefetch};
// Outcomes of one worker that are kept for producers which are not back yet, with what each takes
// here; it is told to forget what is beyond, and such tasks run again.
constexpr std::uint64_t kMaxEarlyBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kEarlyOverhead = 4096;

std::uint64_t early_bytes_of(const Outcome& outcome) {
  return outcome.body.bytes.size() + kEarlyOverhead;
}

}  // namespace

// Compares the leases that the worker says it holds with those we think it has.
void Scheduler::reconcile(WorkerIndex index, const std::vector<message::HeldLeases>& held,
                          Time now) {
  WorkerRecord& worker = workers_.at(index);
  // Leases that the worker does not mention never reached it, or their outcome is lost with it.
  const std::deque<LeaseRun> before = std::exchange(worker.order, {});
  const std::vector<JobKey> withdrawn = withdraw(index, false);
  std::vector<ReportedLeases::Entry> unknown;
  std::uint64_t room = worker.hello.slots + kReportedPrefetch;
  for (const message::HeldLeases& entry : held) {
    const auto found = sessions_.find(entry.session);
    if (found == sessions_.end()) {  // we have restarted and its producer is not back yet
      for (const LeaseRange& range : entry.leases) {
        if (range.count > room) break;
        room -= range.count;
        unknown.push_back({entry.session, entry.job, range});
      }
      continue;
    }
    SessionRecord& session = *found->second;
    if (entry.leases.empty()) continue;
    JobRecord* job = find_job(session, entry.job);
    const bool is_forgotten = session.present && !session.resuming;
    if (job == nullptr && (is_forgotten || session.jobs.size() >= limits::kMaxJobs)) {
      send_worker(index, message::ForgetJob{entry.session, entry.job});
      continue;
    }
    if (job == nullptr) {
      job = &make_job(session, entry.job);
      job->unclaimed_since = now;
    }
    reconcile_job(index, *job, entry.leases);
    job->told.insert(index);  // it knows the job, and must hear when nobody needs it any more
    set_runnable(*job);
  }
  reports_.replace(index, std::move(unknown), now + options_.session_grace);
  worker.leases += static_cast<std::uint32_t>(reports_.count(index));
  std::set<std::tuple<JobKey, std::uint64_t>> kept;
  for (const LeaseRun& run : worker.order) {
    for (std::uint64_t i = 0; i < run.count; ++i) kept.insert({run.job, run.first + i});
  }
  for (const LeaseRun& run : before) {
    JobRecord* job = find_job(run.job);
    for (std::uint64_t s = run.first; job != nullptr && s < run.first + run.count; ++s) {
      TaskRecord* task = job->find(s);
      if (!is_open(index, run, task) || kept.count({run.job, s}) != 0) continue;
      lose_lease(*job, s, *task, false);
    }
  }
  forget_undeclared(withdrawn);
  settle(index);
}

void Scheduler::reconcile_job(WorkerIndex index, JobRecord& job,
                              const std::vector<LeaseRange>& held) {
  WorkerRecord& worker = workers_.at(index);
  std::vector<LeaseRange> stops;
  std::uint64_t listed = 0;
  for (const LeaseRange& range : held) {
    for (std::uint64_t i = 0; i < range.count; ++i) {
      if (++listed > limits::kMaxHeldLeases) break;
      const std::uint64_t sequence = value(range.first) + i;
      TaskRecord* task = job.find(sequence);
      const bool same =
          task != nullptr && task->attempts_made > 0 && task->current_attempt() == range.attempt;
      if (task != nullptr && task->state == TaskState::leased && task->worker == index && same) {
        worker.append_lease(job.key, sequence, range.attempt);
        if (task->stopping) stops.push_back({TaskSequence{sequence}, 1, range.attempt});
      } else if (task != nullptr && task->state == TaskState::queued &&
                 ((same && task->out_of_sight) || task->attempts_made <= value(range.attempt))) {
        // Queued again after we lost sight of it, or leased by the broker before us and resubmitted
        // since (also when an older lease ended here meanwhile, to be tried again): still running.
        job.unqueue(sequence);
        task->state = TaskState::leased;
        task->worker = index;
        task->attempts_made = value(range.attempt) + 1;
        ++job.leased;
        ++worker.leases;
        worker.lease_bytes += task->data.bytes.size();
        if (job.demand != nullptr) charge(job, worker);
        flag_adopted(job, *task, worker);
        worker.append_lease(job.key, sequence, range.attempt);
        ++counters_["leases_adopted"];
      } else if (task == nullptr && sequence >= job.end() && !job.closed) {
        if (!adopt_early(index, job, sequence, range.attempt)) {
          stops.push_back({TaskSequence{sequence}, 1, range.attempt});
        }
      } else {
        stops.push_back({TaskSequence{sequence}, 1, range.attempt});
      }
    }
  }
  if (!stops.empty()) {
    counters_["leases_refused"] += stops.size();
    send_worker(index, message::StopTasks{job.session->id, job.id, std::move(stops)});
  }
}

// --- Before the producer is back
// -------------------------------------------------------------------

// The lease, or its outcome, counts no longer among what the worker has here.
void Scheduler::drop_adopted(const AdoptedLease& adopted) {
  WorkerRecord& worker = workers_.at(adopted.worker);
  if (adopted.outcome) {
    worker.early_bytes -= early_bytes_of(*adopted.outcome);
  } else {
    --worker.leases;
  }
}

// A worker holds a lease of a task that its producer has not submitted again yet. False: it must
// stop, because another's lease stands. The first report does, but not a failure against the lease
// that came after it, in which the task is tried again.
bool Scheduler::adopt_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence,
                            Attempt attempt) {
  AdoptedLease& adopted = job.adopted[sequence];
  if (adopted.worker == index) return true;
  if (adopted.worker != kNoWorker) {
    const bool has_failed = adopted.outcome && adopted.outcome->status != OutcomeStatus::result;
    if (!has_failed || attempt <= adopted.attempt) return false;
    dismiss_adopted(job, sequence, adopted);
  }
  adopted = {index, attempt, std::nullopt};
  ++workers_.at(index).leases;
  return true;
}

// Nobody needs the lease, nor its outcome: its worker is told so.
void Scheduler::dismiss_adopted(JobRecord& job, std::uint64_t sequence,
                                const AdoptedLease& adopted) {
  drop_adopted(adopted);
  std::vector<LeaseRange> leases{{TaskSequence{sequence}, 1, adopted.attempt}};
  if (adopted.outcome) {
    release_stale(*job.session, *adopted.outcome);
    send_worker(adopted.worker,
                message::AcknowledgeLeases{job.session->id, job.id, std::move(leases)});
  } else {
    send_worker(adopted.worker, message::StopTasks{job.session->id, job.id, std::move(leases)});
    workers_.update_level(adopted.worker);
  }
}

// Whether only workers speak of this job so far: they are told nothing of their leases until the
// producer does.
bool Scheduler::waits_for_producer(const SessionId& id, JobId job) const {
  const auto session = sessions_.find(id);
  if (session == sessions_.end()) return true;
  const auto found = session->second->jobs.find(value(job));
  return found != session->second->jobs.end() && !found->second->declared;
}

// What the worker reported before holds no longer, its outcomes only if asked for. Returns jobs of
// which nothing else was known: see forget_undeclared().
std::vector<JobKey> Scheduler::withdraw(WorkerIndex index, bool with_outcomes) {
  workers_.at(index).leases -= static_cast<std::uint32_t>(reports_.count(index));
  reports_.drop(index);
  std::vector<JobKey> emptied;
  for (auto& [key, job] : jobs_) {
    const std::size_t count =
        std::erase_if(job->adopted, [&, &session = *job->session](const auto& entry) {
          const AdoptedLease& adopted = entry.second;
          if (adopted.worker != index || (adopted.outcome && !with_outcomes)) return false;
          if (adopted.outcome) release_stale(session, *adopted.outcome);
          drop_adopted(adopted);
          return true;
        });
    if (count > 0 && !job->declared && job->adopted.empty()) emptied.push_back(key);
  }
  return emptied;
}

void Scheduler::forget_undeclared(const std::vector<JobKey>& keys) {
  for (const JobKey key : keys) {
    JobRecord* job = find_job(key);
    if (job != nullptr && !job->declared && job->adopted.empty()) forget_job(*job);
  }
}

// The session is here, or must be: what workers reported of it is looked at like any other report.
void Scheduler::claim_reports(SessionRecord& session, Time now) {
  if (reports_.empty()) return;
  for (const auto& [index, entry] : reports_.take(session.id)) {
    workers_.at(index).leases -= static_cast<std::uint32_t>(entry.leases.count);
    JobRecord* job = find_job(session, entry.job);
    if (job == nullptr) {
      job = &make_job(session, entry.job);
      job->unclaimed_since = now;
    }
    reconcile_job(index, *job, {entry.leases});
    job->told.insert(index);
    set_runnable(*job);
    settle(index);
  }
}

// An outcome came before its producer did: from now on there is a record of the session. Null:
// the worker did not report the job, or too much is kept of it already.
JobRecord* Scheduler::meet_early(WorkerIndex index, const SessionId& id, JobId job, Time now) {
  if (!reports_.holds_any(index, id, job)) return nullptr;
  if (workers_.at(index).early_bytes + kEarlyOverhead > kMaxEarlyBytes) return nullptr;
  auto& session = sessions_[id];
  if (!session) {
    session = std::make_unique<SessionRecord>();
    session->id = id;
    session->away_since = now;
  }
  claim_reports(*session, now);
  return find_job(*session, job);
}

// Keeps the outcome of a lease whose producer is not back yet, and lets the worker keep it as well.
// False: it is not of such a lease, or finds no room.
bool Scheduler::keep_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence,
                           Attempt attempt, Outcome& outcome) {
  const auto found = job.adopted.find(sequence);
  if (found == job.adopted.end() || found->second.worker != index ||
      found->second.attempt != attempt) {
    return false;
  }
  WorkerRecord& worker = workers_.at(index);
  drop_adopted(found->second);
  if (worker.early_bytes + early_bytes_of(outcome) > kMaxEarlyBytes) {
    ++counters_["outcomes_early_dropped"];
    job.adopted.erase(found);
    return false;
  }
  worker.early_bytes += early_bytes_of(outcome);
  if (outcome.body.blobs > 0) keep_outcome_blobs(job, outcome, false);
  found->second.outcome = std::move(outcome);
  return true;
}

// Their producers did not come back in time: nobody needs these leases.
void Scheduler::expire_reports(Time now) {
  const auto expired = reports_.expire(now);
  for (std::size_t i = 0; i < expired.size(); ++i) {
    const auto& [index, entry] = expired[i];
    workers_.at(index).leases -= static_cast<std::uint32_t>(entry.leases.count);
    const bool is_last = i + 1 == expired.size() || expired[i + 1].first != index ||
                         expired[i + 1].second.session != entry.session ||
                         expired[i + 1].second.job != entry.job;
    if (!is_last) continue;
    send_worker(index, message::ForgetJob{entry.session, entry.job});
    settle(index);
  }
  if (!expired.empty()) review_early_questions();
}

// A worker reported a lease of this task before its producer came back: it is not run again.
void Scheduler::adopt_or_queue(JobRecord& job, std::uint64_t sequence, TaskRecord& task) {
  const auto found = job.adopted.find(sequence);
  if (found == job.adopted.end()) return;
  AdoptedLease adopted = std::move(found->second);
  job.adopted.erase(found);
  ++counters_["leases_adopted"];
  job.unqueue(sequence);
  task.attempts_made = static_cast<std::uint32_t>(adopted.attempt) + 1;
  WorkerRecord& worker = workers_.at(adopted.worker);
  if (adopted.outcome) {
    send_worker(adopted.worker,
                message::AcknowledgeLeases{
                    job.session->id, job.id, {{TaskSequence{sequence}, 1, adopted.attempt}}});
    drop_adopted(adopted);
    conclude(job, sequence, task, std::move(*adopted.outcome));
    return;
  }
  task.state = TaskState::leased;
  task.worker = adopted.worker;
  ++job.leased;
  worker.lease_bytes += task.data.bytes.size();
  if (job.demand != nullptr) {
    charge(job, worker);
    workers_.update_level(adopted.worker);
  }
  flag_adopted(job, task, worker);
  worker.append_lease(job.key, sequence, adopted.attempt);
  job.told.insert(adopted.worker);
}

// The producer resubmitted past these sequences: it has their outcomes, nobody needs the leases.
void Scheduler::drop_stale_adopted(JobRecord& job, std::uint64_t before) {
  if (job.adopted.empty()) return;
  for (auto entry = job.adopted.begin(); entry != job.adopted.end();) {
    if (entry->first >= before) {
      ++entry;
      continue;
    }
    dismiss_adopted(job, entry->first, entry->second);
    entry = job.adopted.erase(entry);
  }
}

}  // namespace muster
