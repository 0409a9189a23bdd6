#include "broker/scheduling/worker_messages.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "broker/scheduling/departures.hpp"

namespace muster {
namespace {

// Longer tasks change no decision, and sums of what a hostile worker claims must not overflow.
constexpr Duration kLongestSample = std::chrono::hours(24);
// OUTPUT that a session may not have read yet: a quarter of the messages that its pipe takes, so
// that what people want to read never costs the connection. A session that reads is heard at every
// heartbeat interval at least.
constexpr std::uint64_t kMaxOutputMessages = 5'000;
constexpr std::uint64_t kMaxOutputBytes = std::uint64_t{16} << 20;

// Whether this is the task's current lease, whatever became of it.
bool is_current(const TaskRecord* task, Attempt attempt) {
  return task != nullptr && task->attempts_made > 0 && task->current_attempt() == attempt;
}

// True when the outcome is from the task's current lease.
bool take_outcome(Reactor& reactor, WorkerIndex index, JobRecord& job, std::uint64_t sequence,
                  Attempt attempt, Outcome&& outcome) {
  TaskRecord* task = job.find(sequence);
  if (!is_current(task, attempt)) return false;
  if (task->state == TaskState::leased && task->worker == index) {
    reactor.books.close_lease(job, *task);
  } else if (task->state == TaskState::queued && task->out_of_sight) {
    job.unqueue(sequence);  // from a worker that we had given up: the work is done all the same
  } else {
    return false;
  }
  reactor.endings.conclude(job, sequence, *task, std::move(outcome));
  return true;
}

// So long took each of these tasks.
void learn_duration(JobRecord& job, Duration busy, std::uint64_t tasks) {
  const Duration sample =
      std::min<Duration>(busy / static_cast<std::int64_t>(tasks), kLongestSample);
  for (Duration* learned : {&job.mean_duration, &job.session->user->mean_duration}) {
    *learned =
        *learned == Duration(0) ? std::max(sample, Duration(1)) : (*learned * 3 + sample) / 4;
  }
}

void returned(Reactor& reactor, WorkerIndex index, const message::Returned& message) {
  Books& books = reactor.books;
  JobRecord* job = books.find_job(message.session, message.job);
  books.worker(index).recall_until = Time::min();
  if (job == nullptr) {
    reactor.reports.give_back(index, message);
    books.settle(index);
    return;
  }
  job->each_in(message.leases, [&](std::uint64_t s, TaskRecord& task, const LeaseRange& range) {
    if (task.state != TaskState::leased || task.worker != index ||
        task.current_attempt() != range.attempt) {
      return;
    }
    books.count("leases_returned");
    reactor.endings.lose_lease(*job, s, task, false);
  });
  reactor.reports.give_back(index, *job, message.leases);
  books.settle(index);
}

void forward_output(Reactor& reactor, WorkerIndex index, message::WorkerOutput&& message) {
  JobRecord* job = reactor.books.find_job(message.session, message.job);
  if (job == nullptr || !job->spec.forward_output || !job->session->present) return;
  SessionRecord& session = *job->session;
  std::uint64_t bytes = 0;
  for (const message::OutputLine& line : message.lines) bytes += line.text.size();
  const bool is_full = session.output_messages >= kMaxOutputMessages ||
                       session.output_bytes + bytes > kMaxOutputBytes;
  job->output_dropped += message.dropped;
  if (is_full) {
    job->output_dropped += message.lines.size();
    reactor.books.count("output_lines_dropped", message.lines.size());
    return;
  }
  ++session.output_messages;
  session.output_bytes += bytes;
  reactor.out.send(
      session, message::Output{job->id, reactor.books.worker(index).hello.node,
                               std::move(message.lines), std::exchange(job->output_dropped, 0)});
}

void hear_state(Reactor& reactor, WorkerIndex index, const message::WorkerState& state) {
  WorkerRecord& worker = reactor.books.worker(index);
  worker.stuck_slots = state.stuck_slots;
  worker.draining = state.draining;
  worker.paused = !state.paused.empty();
  worker.pause_reason = state.paused;
  reactor.books.workers().update_level(index);
}

}  // namespace

void take_outcomes(Reactor& reactor, WorkerIndex index, message::WorkerOutcomes&& message,
                   Time now) {
  Books& books = reactor.books;
  JobRecord* job = books.find_job(message.session, message.job);
  if (job == nullptr && !books.reports().empty()) {
    job = reactor.reports.meet_early(index, message.session, message.job, now);
  }
  std::vector<LeaseRange> acknowledged;
  std::uint64_t taken = 0;
  for (OutcomeRun& run : message.runs) {
    std::uint64_t sequence = value(run.first);
    const std::size_t count = run.outcomes.size();
    bool acknowledge = true;
    for (Outcome& outcome : run.outcomes) {
      if (job != nullptr && !job->adopted.empty() &&
          reactor.reports.keep_early(index, *job, sequence, run.attempt, outcome)) {
        acknowledge = false;
      } else if (job != nullptr &&
                 take_outcome(reactor, index, *job, sequence, run.attempt, std::move(outcome))) {
        ++taken;
      } else {
        books.count("outcomes_late");
      }
      ++sequence;
    }
    if (acknowledge) acknowledged.push_back({run.first, count, run.attempt});
  }
  books.worker(index).tasks_done += taken;
  if (!acknowledged.empty()) {
    reactor.acknowledgements.add(index, {message.session, message.job, std::move(acknowledged)},
                                 now);
  }
  if (job != nullptr && taken > 0) {
    learn_duration(*job, message.busy, taken);
    books.set_runnable(*job);
  }
  if (job != nullptr && !job->declared) reactor.endings.forget_undeclared({job->key});
  books.settle(index);
  books.release_reservation();
}

bool expects_outcome(const Reactor& reactor, WorkerIndex index, const SessionId& session_id,
                     JobId job_id, TaskSequence sequence, Attempt attempt) {
  SessionRecord* session = reactor.books.find_session(session_id);
  if (session == nullptr) {
    return reactor.books.reports().holds(index, session_id, job_id, sequence, attempt);
  }
  JobRecord* job = reactor.books.find_job(*session, job_id);
  if (job == nullptr) return false;
  const auto adopted = job->adopted.find(value(sequence));
  if (adopted != job->adopted.end() && adopted->second.worker == index) {
    return adopted->second.attempt == attempt && !adopted->second.outcome;
  }
  const TaskRecord* task = job->find(value(sequence));
  if (!is_current(task, attempt)) return false;
  return (task->state == TaskState::leased && task->worker == index) ||
         (task->state == TaskState::queued && task->out_of_sight);
}

Refusal on_worker(Reactor& reactor, WorkerIndex index, Message&& message, Time now) {
  if (auto* finished = std::get_if<message::WorkerOutcomes>(&message)) {
    take_outcomes(reactor, index, std::move(*finished), now);
  } else if (auto* said = std::get_if<message::WorkerOutput>(&message)) {
    forward_output(reactor, index, std::move(*said));
  } else if (const auto* back = std::get_if<message::Returned>(&message)) {
    returned(reactor, index, *back);
  } else if (const auto* state = std::get_if<message::WorkerState>(&message)) {
    hear_state(reactor, index, *state);
  } else if (auto* blobs = std::get_if<message::WorkerBlobs>(&message)) {
    reactor.books.hear_blobs(index, std::move(*blobs));
  } else if (auto* asked = std::get_if<message::StoreRequest>(&message)) {
    reactor.stores.ask(index, std::move(*asked));
  } else if (std::holds_alternative<message::Goodbye>(message)) {
    reactor.peers.erase(reactor.books.worker(index).peer);
    lose_worker(reactor, index, true);
  } else {
    return message::Refuse{message::RefuseCode::out_of_order,
                           std::string(name_of(message)) + " is not a worker's message"};
  }
  return {};
}

}  // namespace muster
