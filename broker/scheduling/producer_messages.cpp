#include "broker/scheduling/producer_messages.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "broker/scheduling/departures.hpp"

namespace muster {

using message::Refuse;
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

Refusal refuse(RefuseCode code, std::string text) { return Refuse{code, std::move(text)}; }

std::string name_of_job(JobId job) { return "job " + std::to_string(value(job)); }

// Why the session may have no further job.
Refusal check_jobs(const SessionRecord& session) {
  if (session.jobs.size() >= limits::kMaxJobs) {
    return refuse(RefuseCode::over_limit, "more than " + std::to_string(limits::kMaxJobs) +
                                              " jobs at once; end some first");
  }
  if (session.user->who.is_member && session.user->jobs_held >= member_limits::kJobs) {
    return refuse(RefuseCode::over_limit,
                  session.user->who.name + " has " + std::to_string(member_limits::kJobs) +
                      " jobs here already, as many as one user may have; end some first");
  }
  return {};
}

Refusal declare(Reactor& reactor, SessionRecord& session, message::Job&& message) {
  const Function& function = message.spec.function;
  const bool is_python = function.kind == FunctionKind::python;
  const bool has_body = !function.body.bytes.empty();
  if (function.python.empty() == is_python ||
      (function.kind == FunctionKind::command && has_body)) {
    return refuse(
        RefuseCode::malformed,
        name_of_job(message.job) +
            (is_python
                 ? " is a python job without the interpreter that it needs"
                 : " has an interpreter but is not a python job, or is a command with a body"));
  }
  JobRecord* job = reactor.books.find_job(session, message.job);
  if (job == nullptr) {
    if (auto refusal = check_jobs(session)) return refusal;
    job = &reactor.books.make_job(session, message.job);
    reactor.books.count("jobs");
  }
  if (!job->declared) {
    reactor.books.declare(*job, std::move(message.spec));
  } else if (job->spec != message.spec) {
    return refuse(RefuseCode::out_of_order,
                  name_of_job(message.job) + " was declared with other options");
  }
  return {};
}

void accept_task(Reactor& reactor, JobRecord& job, std::uint64_t sequence, Payload&& payload) {
  TaskRecord& task = reactor.books.accept_task(job, sequence, std::move(payload));
  if (!job.adopted.empty()) reactor.reports.adopt_or_queue(job, sequence, task);
  if (job.names_blobs) reactor.endings.end_if_lost(job, sequence, task);
}

Refusal submit(Reactor& reactor, SessionRecord& session, message::Submit&& message) {
  JobRecord* job = reactor.books.find_job(session, message.job);
  if (job == nullptr || !job->declared || job->closed) {
    return refuse(
        RefuseCode::out_of_order,
        "SUBMIT for " + name_of_job(message.job) +
            (job != nullptr && job->closed ? ", which has ended" : ", which was not declared"));
  }
  const std::uint64_t first = value(message.first);
  const bool skips = job->end() > job->base() && first > job->end();
  const std::uint64_t window = job->records() + message.payloads.size();
  const std::uint64_t credit = reactor.books.options().credit_tasks;
  if ((window > kMaxWindow && (window - kMaxWindow) / kMaxWindowPerCredit > credit) ||
      (skips && session.skipped_records > credit + kSkippedBeyondCredit)) {
    return refuse(RefuseCode::over_limit, "too many finished tasks behind an open one");
  }
  if (session.open_tasks + message.payloads.size() > session.credit.tasks) {
    return refuse(RefuseCode::over_limit, "more tasks than the granted credit");
  }
  if (skips) job->skip_to(first);
  reactor.reports.drop_stale(*job, first);
  std::uint64_t sequence = first;
  for (Payload& payload : message.payloads) {
    if (sequence >= job->end()) accept_task(reactor, *job, sequence, std::move(payload));
    ++sequence;
  }
  job->drop_acknowledged();
  if (session.payload_bytes > session.credit.bytes && session.open_tasks > 1) {
    return refuse(RefuseCode::over_limit, "more payload bytes than the granted credit");
  }
  reactor.books.set_runnable(*job);
  return {};
}

void cancel(Reactor& reactor, SessionRecord& session, const message::Cancel& message) {
  Books& books = reactor.books;
  JobRecord* job = books.find_job(session, message.job);
  if (job == nullptr) return;
  std::vector<LeaseRange> stops;
  WorkerIndex stops_for = kNoWorker;
  const auto flush = [&] {
    if (stops.empty()) return;
    reactor.out.send(books.worker(stops_for),
                     message::StopTasks{session.id, job->id, std::exchange(stops, {})});
  };
  const auto cancel_one = [&](std::uint64_t sequence, TaskRecord& task, const SequenceRange&) {
    if (task.state == TaskState::queued) {
      job->unqueue(sequence);
      reactor.endings.fail_task(*job, sequence, task, OutcomeStatus::cancelled, kCancelled);
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
  books.count("cancels");
}

void acknowledge(Reactor& reactor, SessionRecord& session,
                 const message::AcknowledgeOutcomes& message) {
  Books& books = reactor.books;
  JobRecord* job = books.find_job(session, message.job);
  if (job == nullptr) return;
  const bool was_full = !books.takes_outcomes(session);
  job->each_in(message.ranges, [&](std::uint64_t, TaskRecord& task, const SequenceRange&) {
    if (task.state == TaskState::ended) books.acknowledge(*job, task);
  });
  job->drop_acknowledged();
  books.review_limit(*job);
  if (was_full && books.takes_outcomes(session)) {
    for (auto& [id, other] : session.jobs) books.set_runnable(*other);
  }
  if (job->drained()) reactor.endings.forget_job(*job);
}

void end_job(Reactor& reactor, SessionRecord& session, const message::EndJob& message) {
  JobRecord* job = reactor.books.find_job(session, message.job);
  if (job == nullptr) return;
  job->closed = true;
  reactor.reports.drop_stale(*job, UINT64_MAX);
  if (job->drained()) reactor.endings.forget_job(*job);
}

// Nodes are reached with the keys of the broker's user, and its files go there.
void request_nodes(Reactor& reactor, SessionRecord& session, NodeRequest&& request) {
  if (!session.user->who.is_member) {
    reactor.node_requests.push_back(std::move(request));
    return;
  }
  message::NodesAnswer answer;
  answer.error = session.user->who.name +
                 " may submit tasks to this broker, but not bring up nodes or end them, because "
                 "that is done with the keys and files of the broker's user: ask that user";
  reactor.out.send(session, std::move(answer));
}

}  // namespace

Refusal on_producer(Reactor& reactor, SessionRecord& session, Message&& message, Time now) {
  if (!std::holds_alternative<message::StoreRequest>(message)) reactor.stores.set_named(session);
  if (auto* submitted = std::get_if<message::Submit>(&message)) {
    return submit(reactor, session, std::move(*submitted));
  }
  if (const auto* ack = std::get_if<message::AcknowledgeOutcomes>(&message)) {
    acknowledge(reactor, session, *ack);
  } else if (auto* declared = std::get_if<message::Job>(&message)) {
    return declare(reactor, session, std::move(*declared));
  } else if (const auto* cancelled = std::get_if<message::Cancel>(&message)) {
    cancel(reactor, session, *cancelled);
  } else if (const auto* ended = std::get_if<message::EndJob>(&message)) {
    end_job(reactor, session, *ended);
  } else if (const auto* put = std::get_if<message::BlobPut>(&message)) {
    reactor.out.send(session, reactor.blobs.put(session, *put));
  } else if (const auto* released = std::get_if<message::BlobRelease>(&message)) {
    reactor.blobs.release(session, *released);
  } else if (const auto* held = std::get_if<message::ResultsHeld>(&message)) {
    reactor.blobs.hold_results(session, *held);
  } else if (std::holds_alternative<message::StatusRequest>(message)) {
    reactor.out.send(session, reactor.status.at(now));
  } else if (auto* up = std::get_if<message::NodesUp>(&message)) {
    request_nodes(reactor, session, {session.peer, std::move(*up)});
  } else if (auto* down = std::get_if<message::NodesDown>(&message)) {
    request_nodes(reactor, session, {session.peer, std::move(*down)});
  } else if (auto* asked = std::get_if<message::StoreRequest>(&message)) {
    reactor.stores.ask(session, std::move(*asked));
  } else if (std::holds_alternative<message::Goodbye>(message)) {
    end_session(reactor, session);
  } else {
    return refuse(RefuseCode::out_of_order,
                  std::string(name_of(message)) + " is not a producer's message");
  }
  return {};
}

}  // namespace muster
