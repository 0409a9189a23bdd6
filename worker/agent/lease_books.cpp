#include "worker/agent/lease_books.hpp"

#include <algorithm>
#include <utility>

#include "common/check.hpp"
#include "worker/agent/lease_reports.hpp"
#include "worker/agent/waiting.hpp"

namespace muster {

LeaseBooks::LeaseBooks(const AgentOptions& options)
    : node_(options.node),
      jobs_({options.slots, options.cores, options.memory_bytes, options.gpus}),
      load_(options.slots, options.gpus, options.start_window),
      unsent_(options.outcome_window) {}

// --- What the broker says -----------------------------------------------------------------------

bool LeaseBooks::hear(message::WorkerJob& m) {
  return jobs_.declare({m.session, m.job}, std::move(m.spec));
}

bool LeaseBooks::hear(message::Tasks& m) {
  const JobName name{m.session, m.job};
  HeldJob* job = jobs_.known(name);
  for (TaskRun& run : m.runs) {
    for (std::size_t i = 0; i < run.payloads.size(); ++i) {
      const TaskSequence sequence = run.first + i;
      if (job == nullptr) {
        give_back(name, sequence, run.attempt);
      } else {
        accept(*job, sequence, run.attempt, std::move(run.payloads[i]));
      }
    }
  }
  return true;
}

void LeaseBooks::accept(HeldJob& job, TaskSequence sequence, Attempt attempt, Payload&& payload) {
  HeldLease* held = job.leases.find(sequence);
  if (held != nullptr) {
    if (held->state == LeaseState::abandoned || attempt > held->attempt) {
      replace(job, sequence, *held, attempt, std::move(payload));
    } else if (attempt < held->attempt) {
      give_back(job.name, sequence, attempt);
    }
    return;  // the same attempt: a duplicate
  }
  if (!accepts_) {
    give_back(job.name, sequence, attempt);
    return;
  }
  HeldLease& lease = job.leases.insert(sequence);
  ++held_;
  lease.body = std::move(payload);
  lease.attempt = attempt;
  enqueue(job, sequence, lease);
}

// The broker leased the task again while an earlier lease of it is still here.
void LeaseBooks::replace(HeldJob& job, TaskSequence sequence, HeldLease& lease, Attempt attempt,
                         Payload&& payload) {
  if (lease.state == LeaseState::started && !lease.stopping) {
    lease.attempt = attempt;  // it runs already: its outcome is the new lease's
    return;
  }
  if (!accepts_) {
    give_back(job.name, sequence, attempt);
    return;
  }
  lease.attempt = attempt;
  // The broker did not want it.
  if (lease.state == LeaseState::finished) blobs_.discard(lease.body);
  lease.body = std::move(payload);
  if (lease.is_unstarted()) queue_.leave(lease);
  if (!lease.in_executor()) {
    enqueue(job, sequence, lease);
  } else {
    lease.state = LeaseState::superseded;
  }
}

bool LeaseBooks::hear(message::AcknowledgeLeases& m) {
  HeldJob* job = jobs_.known({m.session, m.job});
  if (job == nullptr) return true;
  for (const LeaseRange& range : m.leases) {
    job->leases.for_range(range.first, range.count, [&](TaskSequence sequence, HeldLease& lease) {
      if (lease.state != LeaseState::finished || lease.attempt != range.attempt) return;
      drop(*job, sequence);
    });
  }
  return true;
}

bool LeaseBooks::hear(message::Recall& m) {
  HeldJob* job = jobs_.known({m.session, m.job});
  if (job == nullptr) return true;
  for (const LeaseRange& range : m.leases) {
    job->leases.for_range(range.first, range.count, [&](TaskSequence sequence, HeldLease& lease) {
      if (lease.attempt == range.attempt) recall(*job, sequence, lease);
    });
  }
  return true;
}

void LeaseBooks::recall(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  switch (lease.state) {
    case LeaseState::queued:
    case LeaseState::waiting:
      hand_back(job, sequence, lease);
      return;
    case LeaseState::superseded:
      give_back(job.name, sequence, lease.attempt);
      lease.body = {};
      lease.state = LeaseState::abandoned;
      return;
    case LeaseState::started:
      if (!lease.stopping) recalls_.push_back(executor_lease(job, sequence, lease));
      return;
    case LeaseState::finished:
    case LeaseState::abandoned:
      return;
  }
}

bool LeaseBooks::hear(message::StopTasks& m) {
  HeldJob* job = jobs_.known({m.session, m.job});
  if (job == nullptr) return true;
  for (const LeaseRange& range : m.leases) {
    job->leases.for_range(range.first, range.count, [&](TaskSequence sequence, HeldLease& lease) {
      if (lease.attempt == range.attempt) stop(*job, sequence, lease);
    });
  }
  return true;
}

void LeaseBooks::stop(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  switch (lease.state) {
    case LeaseState::queued:
    case LeaseState::waiting:
      queue_.leave(lease);
      finish(job, sequence, lease, cancelled_unstarted(), Duration::zero());
      return;
    case LeaseState::superseded:  // the stopped run's outcome stands for both leases
      lease.body = {};
      lease.state = LeaseState::started;
      return;
    case LeaseState::started:
      if (!lease.stopping) stops_.push_back(executor_lease(job, sequence, lease));
      lease.stopping = true;
      return;
    case LeaseState::finished:
    case LeaseState::abandoned:
      return;
  }
}

bool LeaseBooks::hear(message::ForgetJob& m) {
  HeldJob* job = jobs_.known({m.session, m.job});
  if (job == nullptr) return true;
  job->leases.for_each(
      [&](TaskSequence sequence, HeldLease& lease) { forget(*job, sequence, lease); });
  unsent_.forget(*job);
  job->forgotten = true;
  purge_due_ = true;
  return true;
}

void LeaseBooks::forget(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  switch (lease.state) {
    case LeaseState::queued:
    case LeaseState::waiting:
      queue_.leave(lease);
      drop(job, sequence);
      return;
    case LeaseState::finished:
      drop(job, sequence);
      return;
    case LeaseState::started:
    case LeaseState::superseded:
      if (!lease.stopping) stops_.push_back(executor_lease(job, sequence, lease));
      lease.stopping = true;
      lease.body = {};
      lease.state = LeaseState::abandoned;
      return;
    case LeaseState::abandoned:
      return;
  }
}

// --- What the executor reports ------------------------------------------------------------------

void LeaseBooks::finished(std::vector<TaskFinish>&& tasks) {
  for (TaskFinish& task : tasks) {
    HeldJob* job = nullptr;
    HeldLease* lease = executed(task.lease, job);
    const TaskSequence sequence = task.lease.sequence;
    const bool is_wanted = lease != nullptr && lease->state == LeaseState::started;
    if (!is_wanted) blobs_.drop(task.outcome.body);
    if (lease == nullptr) continue;
    if (lease->state == LeaseState::abandoned) {
      drop(*job, sequence);
      purge_due_ = purge_due_ || job->forgotten;
    } else if (lease->state == LeaseState::superseded) {
      enqueue(*job, sequence, *lease);
    } else {
      learn(*job, task);
      ++tasks_done_;
      finish(*job, sequence, *lease, std::move(task.outcome), task.busy);
    }
  }
  tasks.clear();
}

void LeaseBooks::handed_back(const std::vector<Lease>& leases) {
  for (const Lease& named : leases) {
    HeldJob* job = nullptr;
    HeldLease* lease = executed(named, job);
    if (lease == nullptr) continue;
    if (lease->state == LeaseState::abandoned) {
      drop(*job, named.sequence);
      purge_due_ = purge_due_ || job->forgotten;
    } else if (lease->state == LeaseState::superseded) {
      enqueue(*job, named.sequence, *lease);
    } else if (lease->stopping) {
      finish(*job, named.sequence, *lease, cancelled_unstarted(), Duration::zero());
    } else {
      give_back(job->name, named.sequence, lease->attempt);
      drop(*job, named.sequence);
    }
  }
}

// The lease that the executor reports about, which it no longer has.
HeldLease* LeaseBooks::executed(const Lease& lease, HeldJob*& job) {
  job = jobs_.find({lease.session, lease.job});
  HeldLease* held = job == nullptr ? nullptr : job->leases.find(lease.sequence);
  if (held == nullptr || !held->in_executor() || held->executor_attempt != lease.attempt) {
    return nullptr;
  }
  load_.end(*job, lease);
  return held;
}

void LeaseBooks::return_unstarted() {
  for (const auto& [name, job] : jobs_.all()) {
    HeldJob& held = *job;
    held.leases.for_each(
        [&](TaskSequence sequence, HeldLease& lease) { recall(held, sequence, lease); });
  }
}

// --- Blobs --------------------------------------------------------------------------------------

void LeaseBooks::set_sharing(bool shares) {
  if (shares == blobs_.shares()) return;
  blobs_.set_sharing(shares);
  std::vector<ListedLease> ready;
  for (const auto& [name, held] : jobs_.all()) {
    HeldJob& job = *held;
    job.leases.for_each([&](TaskSequence sequence, HeldLease& lease) {
      if (shares) {
        blobs_.release_needs(std::move(lease.needs));
        if (lease.state == LeaseState::waiting) ready.push_back({&job, sequence, lease.order});
      } else if (lease.state == LeaseState::queued) {
        blobs_.take_needs(job, lease);
        if (lease.needs == nullptr || lease.needs->missing == 0) return;
        queue_.leave(lease);
        start_waiting(job, sequence, lease);
      } else if (lease.state == LeaseState::finished) {
        blobs_.keep_again(lease.body);
      }
    });
  }
  queue_.end_wait(std::move(ready));
}

void LeaseBooks::report(const std::vector<BlobReport>& reports) {
  for (const BlobReport& report : reports) {
    switch (report.kind) {
      case BlobReport::Kind::here:
        blob_here(report.blob);
        break;
      case BlobReport::Kind::gone:
        blob_gone(report.blob, report.reason);
        break;
      case BlobReport::Kind::blocked:
        blobs_.blocked(report);
        break;
      case BlobReport::Kind::evicted:
        blobs_.evicted(report.blob);
        break;
    }
  }
}

void LeaseBooks::blob_gone(const BlobId& id, const std::string& reason) {
  const auto lost = blobs_.gone(id);
  if (!lost) return;
  const auto& [name, waiters] = *lost;
  const Failure failure{"blob_lost",
                        "an argument of " + std::to_string(name.size_bytes) + " bytes (blob " +
                            to_hex(id) + ") cannot be had on " + node_ + ": " + reason,
                        "",
                        {}};
  // The last of them lets go of the blob.
  for (const ListedLease& item : waiters) {
    if (item.is_stale(LeaseState::waiting)) continue;
    HeldLease& lease = *item.job->leases.find(item.sequence);
    queue_.leave(lease);
    finish(*item.job, item.sequence, lease, failed(OutcomeStatus::error, failure),
           Duration::zero());
  }
}

// --- What is said and done ----------------------------------------------------------------------

std::vector<message::HeldLeases> LeaseBooks::begin_hello() {
  unsent_.clear();
  returns_.clear();  // the broker requeues what HELLO does not list
  purge_jobs(true);
  return list_held(jobs_.all());
}

void LeaseBooks::resend() {
  blobs_.say_anew();
  unsent_.note_all(jobs_.all());
}

void LeaseBooks::settle() {
  if (purge_due_) purge_jobs(false);
  if (const auto blocked = blobs_.take_blocked(queue_.queued() + load_.tasks())) {
    blob_gone(blocked->blob, blocked->reason);
  }
  fill_executor();
}

void LeaseBooks::say(std::vector<Message>& messages) {
  blobs_.flush(queue_.waiting(), messages);
  const bool has_work = queue_.queued() > 0 && load_.is_busy();
  if (!unsent_.may_wait(has_work, now_)) unsent_.say(messages);
  say_returned(returns_, messages);
  returns_.clear();
}

bool LeaseBooks::forwards_output(const JobName& name) {
  const HeldJob* job = jobs_.known(name);
  return job != nullptr && job->spec->forward_output;
}

void LeaseBooks::fill_executor() {
  while (const ListedLease* next = queue_.front()) {
    const ListedLease item = *next;
    if (!load_.may_start(*item.job)) break;
    queue_.pop_front();
    HeldLease* lease = item.job->leases.find(item.sequence);
    lease->state = LeaseState::started;
    lease->executor_attempt = lease->attempt;
    lease->stopping = false;
    starts_.push_back({executor_lease(*item.job, item.sequence, *lease), item.job->spec,
                       std::exchange(lease->body, {})});
    starts_.back().devices = load_.start(*item.job, starts_.back().lease);
  }
  if (queue_.wants_purge()) purge_jobs(false);
}

// --- Books --------------------------------------------------------------------------------------

void LeaseBooks::enqueue(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  lease.stopping = false;
  lease.order = next_order_++;
  blobs_.take_needs(job, lease);
  if (lease.needs != nullptr && lease.needs->missing > 0) {
    start_waiting(job, sequence, lease);
  } else {
    queue_.push(job, sequence, lease);
  }
}

void LeaseBooks::start_waiting(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  queue_.begin_wait(lease);
  blobs_.list_waiter({&job, sequence, lease.order});
}

void LeaseBooks::finish(HeldJob& job, TaskSequence sequence, HeldLease& lease, Outcome&& outcome,
                        Duration busy) {
  blobs_.release_needs(std::move(lease.needs));
  blobs_.keep(outcome.body);
  lease.state = LeaseState::finished;
  lease.status = outcome.status;
  lease.body = std::move(outcome.body);
  lease.busy = busy;
  lease.stopping = false;
  unsent_.note(job, sequence, now_);
}

void LeaseBooks::hand_back(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  give_back(job.name, sequence, lease.attempt);
  queue_.leave(lease);
  drop(job, sequence);
}

void LeaseBooks::drop(HeldJob& job, TaskSequence sequence) {
  HeldLease& lease = *job.leases.find(sequence);
  blobs_.release_needs(std::move(lease.needs));
  if (lease.state == LeaseState::finished) blobs_.discard(lease.body);
  job.leases.erase(sequence);
  --held_;
}

void LeaseBooks::give_back(const JobName& name, TaskSequence sequence, Attempt attempt) {
  returns_.push_back({name.session, name.job, sequence, attempt});
}

// Frees forgotten jobs that hold nothing, and with `idle_ones` every job that holds nothing: on a
// new connection the broker declares again what it still needs.
void LeaseBooks::purge_jobs(bool idle_ones) {
  purge_due_ = false;
  queue_.purge();
  blobs_.purge();
  unsent_.purge();
  jobs_.purge(idle_ones, forgets_);
}

void LeaseBooks::check_invariants() const {
  std::size_t held = 0;
  std::size_t queued = 0;
  std::size_t waiting = 0;
  for (const auto& [name, job] : jobs_.all()) {
    held += job->leases.size();
    job->leases.for_each([&](TaskSequence, const HeldLease& lease) {
      CHECK(lease.state != LeaseState::superseded || lease.stopping);
      queued += lease.state == LeaseState::queued ? 1 : 0;
      waiting += lease.state == LeaseState::waiting ? 1 : 0;
    });
  }
  CHECK(held == held_);
  CHECK(queued == queue_.queued());
  CHECK(queued <= queue_.listed());
  CHECK(waiting == queue_.waiting());
  load_.check(jobs_.all());
  blobs_.check(jobs_.all());
}

}  // namespace muster
