// What workers say: leases held, outcomes, returned leases; and what their loss means.
#include <algorithm>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"
#include "common/protocol/codec.hpp"
#include "common/protocol/resources.hpp"

namespace muster {

using message::RefuseCode;

namespace {

// Longer tasks change no decision, and sums of what a hostile worker claims must not overflow.
constexpr Duration kLongestSample = std::chrono::hours(24);
// OUTPUT that a session may not have read yet: a quarter of the messages that its pipe takes, so
// that what people want to read never costs the connection. A session that reads is heard at every
// heartbeat interval at least.
constexpr std::uint64_t kMaxOutputMessages = 5'000;
constexpr std::uint64_t kMaxOutputBytes = std::uint64_t{16} << 20;

}  // namespace

void Scheduler::hello(PeerId peer, message::HelloWorker&& hello, Time now, const RemoteUser* user,
                      const LocalUser& local) {
  if (!check_version(peer, hello.protocol_version, hello.software_version)) return;
  const auto old_peer = peers_.find(peer);
  const std::vector<message::HeldLeases> held = std::move(hello.held);
  hello.held.clear();
  WorkerIndex index = workers_.find(hello.worker);
  // Twice on one connection: what it has got since the first time is on its way.
  const bool again =
      index != kNoWorker && workers_.at(index).present && workers_.at(index).peer == peer;
  if (old_peer != peers_.end() && old_peer->second.worker != kNoWorker &&
      old_peer->second.worker != index) {
    refuse(peer, RefuseCode::identity, "one connection cannot be two workers");
    return;
  }
  const std::string user_name = user == nullptr ? local.name : user->name;
  if (index != kNoWorker && workers_.at(index).user != user_name) {
    refuse(peer, RefuseCode::identity, "this worker id is another user's");
    return;
  }
  if (index == kNoWorker) {
    index = workers_.add(std::move(hello));
    workers_.at(index).user = user_name;
    workers_.at(index).number = ++counters_["workers"];
    consider(index);
  } else {
    const PeerId previous = workers_.at(index).peer;
    if (workers_.at(index).present && previous != peer) peers_.erase(previous);
  }
  WorkerRecord& worker = workers_.at(index);
  worker.peer = peer;
  worker.present = true;
  worker.stuck_slots = 0;  // it says so again if that still holds
  worker.paused = false;
  forget_blobs(index);
  worker.last_heard = now;
  worker.last_sent = now;
  peers_[peer] = {PeerKind::worker, nullptr, index, now};
  for (auto& [key, job] : jobs_) job->told.erase(index);  // a new connection is told again
  welcome(peer, nullptr, now, user);
  if (!again) reconcile(index, held, now);
}

void Scheduler::on_worker(WorkerIndex index, Message&& message, Time now) {
  WorkerRecord& worker = workers_.at(index);
  if (auto* finished = std::get_if<message::WorkerOutcomes>(&message)) {
    outcomes(index, std::move(*finished), now);
  } else if (auto* said = std::get_if<message::WorkerOutput>(&message)) {
    output(index, std::move(*said));
  } else if (const auto* back = std::get_if<message::Returned>(&message)) {
    returned(index, *back);
  } else if (const auto* state = std::get_if<message::WorkerState>(&message)) {
    worker.stuck_slots = state->stuck_slots;
    worker.draining = state->draining;
    worker.paused = !state->paused.empty();
    worker.pause_reason = state->paused;
    workers_.update_level(index);
  } else if (auto* blobs = std::get_if<message::WorkerBlobs>(&message)) {
    hear_blobs(index, std::move(*blobs));
  } else if (auto* asked = std::get_if<message::StoreRequest>(&message)) {
    ask_store(index, std::move(*asked));
  } else if (std::holds_alternative<message::Goodbye>(message)) {
    peers_.erase(worker.peer);
    lose_worker(index, true);
  } else {
    refuse(worker.peer, RefuseCode::out_of_order,
           std::string(name_of(message)) + " is not a worker's message");
  }
}

JobRecord* Scheduler::find_job(const SessionId& session, JobId id) {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : find_job(*found->second, id);
}

void Scheduler::outcomes(WorkerIndex index, message::WorkerOutcomes&& message, Time now) {
  WorkerRecord& worker = workers_.at(index);
  JobRecord* job = find_job(message.session, message.job);
  if (job == nullptr && !reports_.empty()) {
    job = meet_early(index, message.session, message.job, now);
  }
  std::vector<LeaseRange> acknowledged;
  std::uint64_t taken = 0;
  for (OutcomeRun& run : message.runs) {
    std::uint64_t sequence = value(run.first);
    const std::size_t count = run.outcomes.size();
    bool acknowledge = true;
    for (Outcome& outcome : run.outcomes) {
      if (job != nullptr && !job->adopted.empty() &&
          keep_early(index, *job, sequence, run.attempt, outcome)) {
        acknowledge = false;
        ++sequence;
        continue;
      }
      if (job != nullptr && take_outcome(index, *job, sequence, run.attempt, std::move(outcome))) {
        ++taken;
      } else {
        ++counters_["outcomes_late"];
      }
      ++sequence;
    }
    if (acknowledge) acknowledged.push_back({run.first, count, run.attempt});
  }
  worker.tasks_done += taken;
  if (!acknowledged.empty()) {
    acknowledge_later(index, {message.session, message.job, std::move(acknowledged)}, now);
  }
  if (job != nullptr && taken > 0) {
    const Duration sample =
        std::min<Duration>(message.busy / static_cast<std::int64_t>(taken), kLongestSample);
    for (Duration* learned : {&job->mean_duration, &job->session->user->mean_duration}) {
      *learned =
          *learned == Duration(0) ? std::max(sample, Duration(1)) : (*learned * 3 + sample) / 4;
    }
    set_runnable(*job);
  }
  if (job != nullptr && !job->declared) forget_undeclared({job->key});
  settle(index);
  release_reservation();
}

// True when the outcome is from the task's current lease.
bool Scheduler::take_outcome(WorkerIndex index, JobRecord& job, std::uint64_t sequence,
                             Attempt attempt, Outcome&& outcome) {
  TaskRecord* task = job.find(sequence);
  if (task == nullptr || task->attempts_made == 0 || task->current_attempt() != attempt) {
    return false;
  }
  if (task->state == TaskState::leased && task->worker == index) {
    close_lease(job, *task);
  } else if (task->state == TaskState::queued && task->out_of_sight) {
    job.unqueue(sequence);  // from a worker that we had given up: the work is done all the same
  } else {
    return false;
  }
  conclude(job, sequence, *task, std::move(outcome));
  return true;
}

// An attempt has its outcome: the task runs again if it failed and may, else it has ended.
void Scheduler::conclude(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                         Outcome&& outcome) {
  if (outcome.body.blobs > 0) check_outcome_blobs(outcome);
  const bool failed =
      outcome.status == OutcomeStatus::error || outcome.status == OutcomeStatus::timed_out;
  if (failed && !task.stopping && task.failures < job.spec.retries && task.failures < UINT16_MAX) {
    ++task.failures;
    ++counters_["tasks_retried"];
    task.out_of_sight = false;
    requeue(job, sequence, task);
    return;
  }
  end_task(job, sequence, task, std::move(outcome));
}

void Scheduler::returned(WorkerIndex index, const message::Returned& message) {
  JobRecord* job = find_job(message.session, message.job);
  workers_.at(index).recall_until = Time::min();
  if (job == nullptr) {
    const std::uint64_t taken =
        reports_.take_back(index, message.session, message.job, message.leases);
    workers_.at(index).leases -= static_cast<std::uint32_t>(taken);
    // It may hold the job for ever otherwise: no report is left that could expire.
    if (taken > 0 && !reports_.holds_any(index, message.session, message.job)) {
      send_worker(index, message::ForgetJob{message.session, message.job});
    }
    settle(index);
    return;
  }
  const std::size_t adopted = job->adopted.size();
  job->each_in(message.leases, [&](std::uint64_t s, TaskRecord& task, const LeaseRange& range) {
    if (task.state != TaskState::leased || task.worker != index ||
        task.current_attempt() != range.attempt) {
      return;
    }
    ++counters_["leases_returned"];
    lose_lease(*job, s, task, false);
  });
  const std::vector<LeaseRange> back = in_order(message.leases);
  std::erase_if(job->adopted, [&](const auto& entry) {
    const AdoptedLease& lease = entry.second;
    if (lease.worker != index || lease.outcome || !covers(back, TaskSequence{entry.first})) {
      return false;
    }
    drop_adopted(lease);
    return true;
  });
  if (job->adopted.size() < adopted) forget_undeclared({job->key});
  settle(index);
}

void Scheduler::output(WorkerIndex index, message::WorkerOutput&& message) {
  JobRecord* job = find_job(message.session, message.job);
  if (job == nullptr || !job->spec.forward_output || !job->session->present) return;
  SessionRecord& session = *job->session;
  std::uint64_t bytes = 0;
  for (const message::OutputLine& line : message.lines) bytes += line.text.size();
  const bool is_full = session.output_messages >= kMaxOutputMessages ||
                       session.output_bytes + bytes > kMaxOutputBytes;
  job->output_dropped += message.dropped;
  if (is_full) {
    job->output_dropped += message.lines.size();
    counters_["output_lines_dropped"] += message.lines.size();
    return;
  }
  ++session.output_messages;
  session.output_bytes += bytes;
  send(session.peer,
       message::Output{job->id, workers_.at(index).hello.node, std::move(message.lines),
                       std::exchange(job->output_dropped, 0)});
}

void Scheduler::requeue(JobRecord& job, std::uint64_t sequence, TaskRecord& task) {
  job.requeue(sequence, task);
  set_runnable(job);
  if (job.has_last_chance()) last_chance_jobs_.insert(job.key);
}

// The task goes back to the head of the queue, or ends: cancelled if that was asked, lost if its
// crash budget is spent.
void Scheduler::lose_lease(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                           bool was_running) {
  close_lease(job, task);
  if (was_running) {
    ++task.losses;
    ++counters_["leases_lost"];
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
    requeue(job, sequence, task);
  }
}

// `told_to_stop`: it said GOODBYE; nothing counts as lost while running.
void Scheduler::lose_worker(WorkerIndex index, bool told_to_stop) {
  WorkerRecord& worker = workers_.at(index);
  ++counters_[told_to_stop ? "workers_left" : "workers_lost"];
  std::uint32_t running = worker.usable_slots();
  std::uint32_t waiting = worker.waiting;
  const std::deque<LeaseRun> order = std::exchange(worker.order, {});
  for (const LeaseRun& run : order) {
    JobRecord* job = find_job(run.job);
    for (std::uint64_t s = run.first; job != nullptr && s < run.first + run.count; ++s) {
      TaskRecord* task = job->find(s);
      if (!is_open(index, run, task)) continue;
      if (!told_to_stop) task->suspect = task->out_of_sight = true;
      if (waiting > 0 && was_waiting(*job, *task, worker)) {
        --waiting;
        lose_lease(*job, s, *task, false);
        continue;
      }
      const bool was_running = !told_to_stop && running > 0;
      const std::uint32_t width = width_of(job->spec.resources, shape_of(worker.hello));
      running -= std::min(running, width);
      lose_lease(*job, s, *task, was_running);
    }
  }
  for (auto& [key, job] : jobs_) job->told.erase(index);
  forget_undeclared(withdraw(index, true));
  if (reserved_worker_ == index) reserved_worker_ = kNoWorker;
  unconsider(index);
  waiting_workers_.erase(index);
  std::erase_if(early_questions_, [&](const auto& early) { return early.worker == index; });
  forget_in_stores(origin_of(worker.hello.worker));
  std::erase(unacknowledged_, index);
  workers_.remove(index);
}

}  // namespace muster
