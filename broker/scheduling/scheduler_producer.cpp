// What producers say: sessions, jobs, tasks, cancellation, acknowledgement.
#include <algorithm>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/protocol/codec.hpp"

namespace muster {

using message::RefuseCode;

namespace {

// Tasks of a job that take memory behind its oldest open one: open tasks, unacknowledged outcomes,
// and those that are done.
constexpr std::uint64_t kMaxWindow = 1'000'000;
constexpr std::uint64_t kMaxWindowPerCredit = 4;
// Of all jobs of a session, those that were skipped because the producer has their outcomes, or
// cancelled them before they were sent: so many more than its credit. Most of those in long runs
// take no memory and do not count.
constexpr std::uint64_t kSkippedBeyondCredit = 4096;

const Failure kCancelled{"cancelled", "cancelled before it started", "", {}};

}  // namespace

void Scheduler::hello(PeerId peer, message::HelloProducer&& hello, Time now,
                      const LocalUser& local) {
  if (!check_version(peer, hello.protocol_version, hello.software_version)) return;
  const auto old = peers_.find(peer);
  if (old != peers_.end() && old->second.session != nullptr &&
      old->second.session->id != hello.session) {
    refuse(peer, RefuseCode::identity, "one connection cannot be two sessions");
    return;
  }
  if (!admit_session(peer, hello.session, local)) return;
  auto& slot = sessions_[hello.session];
  if (!slot) {
    slot = std::make_unique<SessionRecord>();
    slot->id = hello.session;
    ++counters_["sessions"];
  }
  SessionRecord& session = *slot;
  join_user(session, local);
  if (session.peer != peer) forget_connection(session);  // it has reconnected
  session.label = std::move(hello.label);
  session.peer = peer;
  session.present = true;
  session.silent = false;
  session.last_heard = now;
  session.last_sent = now;
  if (!std::exchange(session.greeted, true) && hello.resuming) {
    session.resuming = true;
    session.hold_until = started_ + options_.resume_wait;
  }
  peers_[peer] = {PeerKind::session, &session, kNoWorker, now};
  claim_reports(session, now);
  welcome(peer, &session, now);
  send(peer, message::Pool(announced_));  // what changed in this turn follows
  for (auto& [id, job] : session.jobs) resend_outcomes(*job);
}

void Scheduler::on_producer(SessionRecord& session, Message&& message, Time now) {
  if (!std::holds_alternative<message::StoreRequest>(message)) set_stores_named(session);
  if (auto* submitted = std::get_if<message::Submit>(&message)) {
    submit(session, std::move(*submitted));
  } else if (const auto* ack = std::get_if<message::AcknowledgeOutcomes>(&message)) {
    acknowledge(session, *ack);
  } else if (auto* declared = std::get_if<message::Job>(&message)) {
    declare(session, std::move(*declared));
  } else if (const auto* cancelled = std::get_if<message::Cancel>(&message)) {
    cancel(session, *cancelled);
  } else if (const auto* ended = std::get_if<message::EndJob>(&message)) {
    if (JobRecord* job = find_job(session, ended->job)) {
      job->closed = true;
      drop_stale_adopted(*job, UINT64_MAX);
      if (job->drained()) forget_job(*job);
    }
  } else if (const auto* put = std::get_if<message::BlobPut>(&message)) {
    put_blobs(session, *put);
  } else if (const auto* released = std::get_if<message::BlobRelease>(&message)) {
    release_blobs(session, *released);
  } else if (const auto* held = std::get_if<message::ResultsHeld>(&message)) {
    hold_results(session, *held);
  } else if (std::holds_alternative<message::StatusRequest>(message)) {
    send(session.peer, status(now));
  } else if (auto* up = std::get_if<message::NodesUp>(&message)) {
    request_nodes(session, {session.peer, std::move(*up)});
  } else if (auto* down = std::get_if<message::NodesDown>(&message)) {
    request_nodes(session, {session.peer, std::move(*down)});
  } else if (auto* asked = std::get_if<message::StoreRequest>(&message)) {
    ask_store(session, std::move(*asked));
  } else if (std::holds_alternative<message::Goodbye>(message)) {
    peers_.erase(session.peer);
    end_session(session);
  } else {
    refuse(session.peer, RefuseCode::out_of_order,
           std::string(name_of(message)) + " is not a producer's message");
  }
}

// Nodes are reached with the keys of the broker's user, and its files go there.
void Scheduler::request_nodes(SessionRecord& session, NodeRequest&& request) {
  if (!session.user->who.is_member) {
    node_requests_.push_back(std::move(request));
    return;
  }
  message::NodesAnswer answer;
  answer.error = session.user->who.name +
                 " may submit tasks to this broker, but not bring up nodes or end them, because "
                 "that is done with the keys and files of the broker's user: ask that user";
  send(session.peer, std::move(answer));
}

void Scheduler::answer(PeerId peer, message::NodesAnswer&& answer) {
  const auto found = peers_.find(peer);
  if (found == peers_.end() || found->second.session == nullptr) return;
  send(peer, std::move(answer));
}

JobRecord* Scheduler::find_job(SessionRecord& session, JobId id) {
  const auto found = session.jobs.find(value(id));
  return found == session.jobs.end() ? nullptr : found->second;
}

JobRecord& Scheduler::make_job(SessionRecord& session, JobId id) {
  const JobKey key{++last_key_};
  auto job = std::make_unique<JobRecord>(session, id, key);
  session.jobs[value(id)] = job.get();
  if (session.user != nullptr) ++session.user->jobs_held;
  return *(jobs_[key] = std::move(job));
}

void Scheduler::declare(SessionRecord& session, message::Job&& message) {
  const Function& function = message.spec.function;
  const bool is_python = function.kind == FunctionKind::python;
  const bool has_body = !function.body.bytes.empty();
  if (function.python.empty() == is_python ||
      (function.kind == FunctionKind::command && has_body)) {
    refuse(
        session.peer, RefuseCode::malformed,
        "job " + std::to_string(value(message.job)) +
            (is_python ? " is a python job without the interpreter that it needs"
                       : " has an interpreter but is no python job, or is a command with a body"));
    return;
  }
  JobRecord* job = find_job(session, message.job);
  if (job == nullptr) {
    if (session.jobs.size() >= limits::kMaxJobs) {
      refuse(session.peer, RefuseCode::over_limit,
             "more than " + std::to_string(limits::kMaxJobs) + " jobs at once; end some first");
      return;
    }
    if (session.user->who.is_member && session.user->jobs_held >= member_limits::kJobs) {
      refuse(session.peer, RefuseCode::over_limit,
             session.user->who.name + " has " + std::to_string(member_limits::kJobs) +
                 " jobs here already, as many as one user may have; end some first");
      return;
    }
    job = &make_job(session, message.job);
    ++counters_["jobs"];
  }
  if (!job->declared) {
    job->spec = std::move(message.spec);
    job->declared = true;
    set_demand(*job);
    if (job->spec.function.body.blobs > 0) note_blobs(*job);
  } else if (job->spec != message.spec) {
    refuse(session.peer, RefuseCode::out_of_order,
           "job " + std::to_string(value(message.job)) + " was declared with other options");
  }
}

void Scheduler::submit(SessionRecord& session, message::Submit&& message) {
  JobRecord* job = find_job(session, message.job);
  if (job == nullptr || !job->declared || job->closed) {
    refuse(session.peer, RefuseCode::out_of_order,
           "SUBMIT for job " + std::to_string(value(message.job)) +
               (job != nullptr && job->closed ? ", which has ended" : ", which was not declared"));
    return;
  }
  const std::uint64_t first = value(message.first);
  const bool skips = job->end() > job->base() && first > job->end();
  const std::uint64_t window = job->records() + message.payloads.size();
  if ((window > kMaxWindow &&
       (window - kMaxWindow) / kMaxWindowPerCredit > options_.credit_tasks) ||
      (skips && session.skipped_records > options_.credit_tasks + kSkippedBeyondCredit)) {
    refuse(session.peer, RefuseCode::over_limit, "too many finished tasks behind an open one");
    return;
  }
  if (session.open_tasks + message.payloads.size() > session.credit.tasks) {
    refuse(session.peer, RefuseCode::over_limit, "more tasks than the granted credit");
    return;
  }
  if (skips) job->skip_to(first);
  drop_stale_adopted(*job, first);
  std::uint64_t sequence = first;
  for (Payload& payload : message.payloads) {
    if (sequence >= job->end()) accept_task(*job, sequence, std::move(payload));
    ++sequence;
  }
  job->drop_acknowledged();
  if (session.payload_bytes > session.credit.bytes && session.open_tasks > 1) {
    refuse(session.peer, RefuseCode::over_limit, "more payload bytes than the granted credit");
    return;
  }
  set_runnable(*job);
}

void Scheduler::accept_task(JobRecord& job, std::uint64_t sequence, Payload&& payload) {
  TaskRecord& task = job.append(sequence, std::move(payload));
  ++job.session->open_tasks;
  job.session->payload_bytes += task.data.bytes.size();
  if (task.data.blobs > 0) note_blobs(job);
  if (!job.adopted.empty()) adopt_or_queue(job, sequence, task);
  if (job.names_blobs) end_if_lost(job, sequence, task);
}

void Scheduler::cancel(SessionRecord& session, const message::Cancel& message) {
  JobRecord* job = find_job(session, message.job);
  if (job == nullptr) return;
  std::vector<LeaseRange> stops;
  WorkerIndex stops_for = kNoWorker;
  const auto flush = [&] {
    if (stops.empty()) return;
    send_worker(stops_for, message::StopTasks{session.id, job->id, std::exchange(stops, {})});
  };
  const auto cancel_one = [&](std::uint64_t sequence, TaskRecord& task, const SequenceRange&) {
    if (task.state == TaskState::queued) {
      job->unqueue(sequence);
      fail_task(*job, sequence, task, OutcomeStatus::cancelled, kCancelled);
    } else if (task.state == TaskState::leased && !task.stopping) {
      if (task.worker != stops_for || stops.size() >= limits::kBatchTasks) flush();
      stops_for = task.worker;
      task.stopping = true;
      stops.push_back({TaskSequence{sequence}, 1, task.current_attempt()});
    }
  };
  const SequenceRange all{TaskSequence{job->base()}, job->end() - job->base()};
  job->each_in(message.ranges.empty() ? std::vector{all} : message.ranges, cancel_one);
  flush();
  ++counters_["cancels"];
}

void Scheduler::acknowledge(SessionRecord& session, const message::AcknowledgeOutcomes& message) {
  JobRecord* job = find_job(session, message.job);
  if (job == nullptr) return;
  const bool was_full = !takes_outcomes(session);
  job->each_in(message.ranges, [&](std::uint64_t, TaskRecord& task, const SequenceRange&) {
    if (task.state != TaskState::ended) return;
    task.state = TaskState::acknowledged;
    session.outcome_bytes -= task.data.bytes.size();
    job->outcome_bytes -= task.data.bytes.size();
    --session.outcomes_held;
    task.data = {};
  });
  job->drop_acknowledged();
  review_limit(*job);
  if (was_full && takes_outcomes(session)) {
    for (auto& [id, other] : session.jobs) set_runnable(*other);
  }
  if (job->drained()) forget_job(*job);
}

void Scheduler::forget_connection(const SessionRecord& session) {
  const auto found = peers_.find(session.peer);
  if (found != peers_.end() && found->second.session == &session) peers_.erase(found);
}

void Scheduler::end_session(SessionRecord& session) {
  forget_connection(session);
  while (!session.jobs.empty()) forget_job(*session.jobs.begin()->second);
  forget_in_stores(origin_of(session.id));
  end_session_blobs(session);
  leave_user(session);
  sessions_.erase(session.id);
  review_early_questions();
}

// Ends a job: what is left of it is dropped here and on every worker that knows it.
void Scheduler::forget_job(JobRecord& job) {
  job.each([&](std::uint64_t, TaskRecord& task) {
    if (task.state == TaskState::acknowledged) return;
    if (task.state == TaskState::leased) {
      job.told.insert(task.worker);
      close_lease(job, task);
    }
    const bool ended = task.state == TaskState::ended;
    --(ended ? job.session->outcomes_held : job.session->open_tasks);
    (ended ? job.session->outcome_bytes : job.session->payload_bytes) -= task.data.bytes.size();
  });
  job.session->skipped_records -= job.skipped_records();
  for (const auto& [sequence, adopted] : job.adopted) {
    job.told.insert(adopted.worker);
    drop_adopted(adopted);
    if (adopted.outcome) release_stale(*job.session, *adopted.outcome);
  }
  job.told.each([&](WorkerIndex index) {
    settle(index);
    send_worker(index, message::ForgetJob{job.session->id, job.id});
  });
  if (job.runnable) run_queue_.erase(job);
  last_chance_jobs_.erase(job.key);
  drop_demand(job);
  drop_classes(job);
  blob_jobs_ -= job.names_blobs ? 1 : 0;
  job.session->jobs.erase(value(job.id));
  if (job.session->user != nullptr) --job.session->user->jobs_held;
  jobs_.erase(job.key);
}

}  // namespace muster
