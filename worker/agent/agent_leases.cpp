// The agent's leases: what the broker gives and takes back.
#include <algorithm>
#include <utility>

#include "common/protocol/resources.hpp"
#include "worker/agent/agent.hpp"
#include "worker/agent/waiting.hpp"

namespace muster {

void Agent::handle(message::WorkerJob& m) {
  const JobName name{m.session, m.job};
  HeldJob* job = find_job(name);
  if (job == nullptr) {
    auto made = std::make_unique<HeldJob>();
    made->name = name;
    made->serial = next_serial_++;
    job = made.get();
    jobs_.emplace(name, std::move(made));
  }
  job->forgotten = false;
  if (job->spec == nullptr || !(*job->spec == m.spec)) {
    // What the executor holds is counted by the kind of function and the resources that it started
    // with.
    if (job->spec != nullptr && !job->leases.empty() &&
        (kind_of(*job->spec) != kind_of(m.spec) || job->spec->resources != m.spec.resources)) {
      ++dropped_messages_;
      return;
    }
    set_spec(*job, std::move(m.spec));
  }
}

// The broker sends nothing that does not fit; what does all the same takes the whole worker.
void Agent::set_spec(HeldJob& job, JobSpec&& spec) {
  const Shape shape{options_.slots, options_.cores, options_.memory_bytes, options_.gpus};
  job.mean_known = false;
  job.demanding = is_demanding(spec.resources);
  job.width = std::min(width_of(spec.resources, shape), options_.slots);
  job.gpus = std::min(spec.resources.gpus, options_.gpus);
  job.spec = std::make_shared<const JobSpec>(std::move(spec));
}

void Agent::handle(message::Tasks& m) {
  const JobName name{m.session, m.job};
  HeldJob* job = known_job(name);
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
}

void Agent::accept(HeldJob& job, TaskSequence sequence, Attempt attempt, Payload&& payload) {
  HeldLease* held = job.leases.find(sequence);
  if (held != nullptr) {
    if (held->state == LeaseState::abandoned || attempt > held->attempt) {
      replace(job, sequence, *held, attempt, std::move(payload));
    } else if (attempt < held->attempt) {
      give_back(job.name, sequence, attempt);
    }
    return;  // the same attempt: a duplicate
  }
  if (!takes_leases()) {
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
void Agent::replace(HeldJob& job, TaskSequence sequence, HeldLease& lease, Attempt attempt,
                    Payload&& payload) {
  if (lease.state == LeaseState::started && !lease.stopping) {
    lease.attempt = attempt;  // it runs already: its outcome is the new lease's
    return;
  }
  if (!takes_leases()) {
    give_back(job.name, sequence, attempt);
    return;
  }
  lease.attempt = attempt;
  if (lease.state == LeaseState::finished) discard_outcome(lease);  // the broker did not want it
  lease.body = std::move(payload);
  if (lease.is_unstarted()) leave_queue(lease);
  if (!lease.in_executor()) {
    enqueue(job, sequence, lease);
  } else if (lease.in_executor()) {
    lease.state = LeaseState::superseded;
  }
}

void Agent::handle(message::AcknowledgeLeases& m) {
  HeldJob* job = known_job({m.session, m.job});
  if (job == nullptr) return;
  for (const LeaseRange& range : m.leases) {
    job->leases.for_range(range.first, range.count, [&](TaskSequence sequence, HeldLease& lease) {
      if (lease.state != LeaseState::finished || lease.attempt != range.attempt) return;
      drop(*job, sequence);
    });
  }
}

void Agent::handle(message::Recall& m) {
  HeldJob* job = known_job({m.session, m.job});
  if (job == nullptr) return;
  for (const LeaseRange& range : m.leases) {
    job->leases.for_range(range.first, range.count, [&](TaskSequence sequence, HeldLease& lease) {
      if (lease.attempt == range.attempt) recall(*job, sequence, lease);
    });
  }
}

void Agent::recall(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
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

void Agent::handle(message::StopTasks& m) {
  HeldJob* job = known_job({m.session, m.job});
  if (job == nullptr) return;
  for (const LeaseRange& range : m.leases) {
    job->leases.for_range(range.first, range.count, [&](TaskSequence sequence, HeldLease& lease) {
      if (lease.attempt == range.attempt) stop(*job, sequence, lease);
    });
  }
}

void Agent::stop(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  switch (lease.state) {
    case LeaseState::queued:
    case LeaseState::waiting:
      leave_queue(lease);
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

void Agent::handle(message::ForgetJob& m) {
  HeldJob* job = known_job({m.session, m.job});
  if (job == nullptr) return;
  job->leases.for_each(
      [&](TaskSequence sequence, HeldLease& lease) { forget(*job, sequence, lease); });
  std::erase_if(unsent_, [&](const OutcomeItem& item) { return item.job == job; });
  job->forgotten = true;
  purge_due_ = true;
}

void Agent::forget(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  switch (lease.state) {
    case LeaseState::queued:
    case LeaseState::waiting:
      leave_queue(lease);
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

}  // namespace muster
