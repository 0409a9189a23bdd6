// What producers are told: outcomes, and why a job waits.
#include <algorithm>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/protocol/codec.hpp"

namespace muster {
namespace {

constexpr std::size_t kNamesInText = 8;
// Messages of outcomes that a worker keeps although they arrived: a few round trips' worth.
constexpr std::size_t kMostAcknowledgements = 16;

std::string list_some(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNamesInText); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return names.size() > kNamesInText ? text + ", …" : text;
}

}  // namespace

void Scheduler::end_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                         Outcome&& outcome) {
  SessionRecord& session = *job.session;
  --session.open_tasks;
  ++session.outcomes_held;
  session.payload_bytes -= task.data.bytes.size();
  session.outcome_bytes += outcome.body.bytes.size();
  job.outcome_bytes += outcome.body.bytes.size();
  if (outcome.body.blobs > 0) keep_outcome_blobs(job, outcome, true);
  if (outcome.body.blobs > 0 || job.mean_result_bytes > 0 || job.told_bytes > 0) {
    count_result(job, outcome);
  }
  task.state = TaskState::ended;
  task.status = outcome.status;
  task.data = std::move(outcome.body);
  ++(outcome.status == OutcomeStatus::result ? job.done : job.failed);
  if (job.ready.empty()) ready_jobs_.push_back(job.key);
  job.ready.push_back(sequence);
}

// The task ends here, not at a worker. Many of a job do so at once and for one reason.
void Scheduler::fail_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task,
                          OutcomeStatus status, const Failure& failure) {
  if (!job.last_failure || job.last_failure->status != status ||
      job.last_failure->failure != failure) {
    job.last_failure = std::make_unique<SharedFailure>(
        SharedFailure{status, failure, failed(status, failure).body});
  }
  end_task(job, sequence, task, {status, job.last_failure->body});
}

void Scheduler::resend_outcomes(JobRecord& job) {
  job.ready.clear();
  job.each([&](std::uint64_t sequence, const TaskRecord& task) {
    if (task.state == TaskState::ended) job.ready.push_back(sequence);
  });
  if (!job.ready.empty()) ready_jobs_.push_back(job.key);
  if (!job.waiting.empty()) notice(job, std::exchange(job.waiting, {}));
}

void Scheduler::flush_outcomes() {
  for (const JobKey key : std::exchange(ready_jobs_, {})) {
    const auto found = jobs_.find(key);
    if (found != jobs_.end()) flush_outcomes(*found->second);
  }
}

void Scheduler::flush_outcomes(JobRecord& job) {
  std::vector<std::uint64_t> ready = std::exchange(job.ready, {});
  if (!job.session->present || ready.empty()) return;  // HELLO sends them again
  if (!std::is_sorted(ready.begin(), ready.end())) std::sort(ready.begin(), ready.end());
  message::Outcomes message{job.id, {}};
  std::size_t count = 0;
  std::size_t bytes = 0;
  for (const std::uint64_t sequence : ready) {
    const TaskRecord* task = job.find(sequence);
    if (task == nullptr || task->state != TaskState::ended) continue;
    const Attempt attempt{task->attempts_made == 0 ? 0 : task->attempts_made - 1};
    if (message.runs.empty() || message.runs.back().attempt != attempt ||
        value(message.runs.back().first) + message.runs.back().outcomes.size() != sequence) {
      message.runs.push_back({TaskSequence{sequence}, attempt, {}});
      if (message.runs.size() == 1) {
        message.runs[0].outcomes.reserve(std::min(ready.size(), limits::kBatchTasks));
      }
    }
    message.runs.back().outcomes.push_back({task->status, task->data});
    bytes += task->data.bytes.size();
    if (++count >= limits::kBatchTasks || bytes >= limits::kBatchBytes) {
      send(job.session->peer, std::exchange(message, message::Outcomes{job.id, {}}));
      count = bytes = 0;
    }
  }
  if (count > 0) send(job.session->peer, std::move(message));
}

void Scheduler::acknowledge_later(WorkerIndex index, message::AcknowledgeLeases&& message,
                                  Time now) {
  WorkerRecord& worker = workers_.at(index);
  if (worker.acknowledgements.empty()) {
    unacknowledged_.push_back(index);
    worker.acknowledgements_since = now;
  }
  worker.acknowledgements.push_back(std::move(message));
}

// What goes to the same worker in the same turn costs next to nothing; alone it is two wake-ups.
void Scheduler::flush_acknowledgements(Time now) {
  std::erase_if(unacknowledged_, [&](WorkerIndex index) {
    WorkerRecord& worker = workers_.at(index);
    if (worker.told_in_turn != turn_ && !worker.draining &&
        worker.acknowledgements.size() < kMostAcknowledgements &&
        now - worker.acknowledgements_since < options_.acknowledgement_window) {
      return false;
    }
    for (auto& message : std::exchange(worker.acknowledgements, {})) {
      send_worker(index, std::move(message));
    }
    worker.last_sent = now;
    return true;
  });
  ++turn_;
}

void Scheduler::notice(JobRecord& job, std::string text) {
  if (job.waiting == text) return;
  job.waiting = text;
  if (job.session->present) send(job.session->peer, message::Notice{job.id, std::move(text)});
}

// Looks at jobs that wait although nothing of theirs runs; tells why, and gives up in the end.
void Scheduler::explain_waiting(Time now) {
  class_rooms_.assign(workers_.classes().size(), {});
  workers_.each([&](WorkerIndex, const WorkerRecord& worker) {
    ClassRoom& room = class_rooms_[worker.class_index];
    room.stuck_slots += worker.stuck_slots;
    room.usable_slots += worker.draining || worker.paused ? 0 : worker.usable_slots();
    if (worker.paused) room.paused = worker.hello.node + ": " + worker.pause_reason;
  });
  for (auto& [key, job] : jobs_) {
    review_results(*job, now);
    if (job->queued > 0 && job->leased == 0 && now >= job->session->hold_until) {
      explain_waiting(*job, now);
    } else {
      job->unplaced_since = kNever;
      notice(*job, "");
    }
  }
}

// Why no connected worker can run the function at all.
std::string Scheduler::nobody_offers(const JobSpec& spec, const char*& kind) {
  const Function& function = spec.function;
  const auto& classes = workers_.classes();
  if (!spec.labels.empty() && std::any_of(classes.begin(), classes.end(),
                                          [&](auto& group) { return group.offers(function); })) {
    std::set<std::string> labels;
    for (const WorkerClass& group : classes) {
      if (group.workers > 0) labels.insert(group.labels.begin(), group.labels.end());
    }
    return "no connected worker that could run it has all of the labels " + list_some(spec.labels) +
           " (workers have: " +
           (labels.empty() ? "none" : list_some({labels.begin(), labels.end()})) +
           "); start a worker with --label, or name other labels";
  }
  if (function.kind == FunctionKind::python) {
    kind = "wrong_interpreter";
    return nobody_interprets(function);
  }
  kind = "unknown_function";
  if (function.kind == FunctionKind::command) return "no connected worker runs commands";
  return "no connected worker offers the function '" + function.name +
         "' (offered: " + offered_functions() +
         "); start a worker with --plugin and the library that registers it";
}

// Many jobs may ask for it, and classes may offer many: made once for these workers.
const std::string& Scheduler::offered_functions() {
  if (std::exchange(offered_generation_, workers_.generation()) == workers_.generation()) {
    return offered_functions_;
  }
  std::vector<std::string> offered;
  for (const WorkerClass& group : workers_.classes()) {
    if (group.workers > 0) {
      offered.insert(offered.end(), group.functions.begin(), group.functions.end());
    }
  }
  std::sort(offered.begin(), offered.end());
  offered.erase(std::unique(offered.begin(), offered.end()), offered.end());
  return offered_functions_ = offered.empty() ? "none" : list_some(offered);
}

std::string Scheduler::nobody_interprets(const Function& function) {
  std::set<std::string> versions;
  std::vector<std::string> offered;  // "3.11 on node7"
  std::string some_node;
  workers_.each([&](WorkerIndex, const WorkerRecord& worker) {
    if (some_node.empty()) some_node = worker.hello.node;
    if (worker.hello.python.empty() || offered.size() > kNamesInText) return;
    std::string offer = worker.hello.python + " on " + worker.hello.node;
    if (std::find(offered.begin(), offered.end(), offer) != offered.end()) return;
    offered.push_back(std::move(offer));
    versions.insert(worker.hello.python);
  });
  std::string text = "the function needs Python " + function.python + ", which no worker offers (" +
                     (offered.empty() ? "none has Python" : "offered: " + list_some(offered)) +
                     "); ";
  if (!versions.empty()) text += "start the client with Python " + *versions.rbegin() + ", or ";
  return text + "install Python " + function.python + " and muster on node " + some_node +
         " and restart its worker with --python (`muster status` says what nodes of `muster up` "
         "lack)";
}

std::string Scheduler::waiting_reason(JobRecord& job, Duration& patience, const char*& kind) {
  kind = "no_worker";
  patience = options_.no_worker_timeout;
  if (workers_.size() == 0) {
    return "no worker is connected; start one with: " + options_.worker_hint;
  }
  if (eligible_classes(job).empty()) {
    patience = options_.unknown_function_timeout;
    return nobody_offers(job.spec, kind);
  }
  if (job.demand != nullptr && job.demand->candidates.empty()) {
    patience = options_.unknown_function_timeout;
    return nobody_is_large_enough(job);
  }
  patience = Duration::max();
  std::uint64_t stuck = 0;
  std::uint64_t usable = 0;
  std::string paused;
  for (const std::uint32_t index : eligible_classes(job)) {
    const ClassRoom& room = class_rooms_.at(index);
    stuck += room.stuck_slots;
    usable += room.usable_slots;
    if (!room.paused.empty()) paused = room.paused;
  }
  if (usable == 0 && !paused.empty()) return "the workers that could run it pause (" + paused + ")";
  if (usable == 0) {
    return "no slot is free: " + std::to_string(stuck) +
           " are held by tasks that timed out or were stopped and have not returned, the other "
           "workers are draining; use the process executor, whose tasks can be killed";
  }
  if (std::string held = held_reason(job); !held.empty()) return held;
  if (job.demand != nullptr) return nobody_has_room(job);
  return "";  // its turn comes
}

void Scheduler::explain_waiting(JobRecord& job, Time now) {
  Duration patience{};
  const char* kind = "";
  std::string reason = waiting_reason(job, patience, kind);
  if (reason.empty()) {
    job.unplaced_since = kNever;
    notice(job, "");
    return;
  }
  if (job.unplaced_since == kNever) job.unplaced_since = now;
  if (patience == Duration::max() || now - job.unplaced_since < patience) {
    notice(job, std::move(reason));
    return;
  }
  ++counters_["jobs_given_up"];
  const Failure failure{kind, std::move(reason), "", {}};
  job.each([&](std::uint64_t sequence, TaskRecord& task) {
    if (task.state != TaskState::queued) return;
    job.unqueue(sequence);
    fail_task(job, sequence, task, OutcomeStatus::error, failure);
  });
  job.unplaced_since = kNever;
  set_runnable(job);
}

}  // namespace muster
