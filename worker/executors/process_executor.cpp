#include "worker/executors/process_executor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "worker/agent/waiting.hpp"
#include "worker/system/clock.hpp"
#include "worker/system/machine.hpp"

namespace muster {
namespace {

// A runner gets about this much work ahead: more than the round trip to the daemon.
constexpr Duration kChunkWork = std::chrono::milliseconds(1);
constexpr std::size_t kMostAhead = 1024;
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

// Each new duration moves the mean by an eighth.
constexpr int kMeanShift = 3;

}  // namespace

ProcessExecutor::ProcessExecutor(ProcessExecutorOptions options)
    : options_(std::move(options)), awake_(options_.warm) {
  for (std::uint32_t slot = 0; slot < options_.slots; ++slot) {
    slots_.emplace_back(options_.runner, watches_, slot);
    if (!options_.gpus.empty()) slots_.back().runner.set_devices("");
    if (awake_) slots_.back().runner.launch(steady_now());
  }
}

// All are told before the first is waited for.
ProcessExecutor::~ProcessExecutor() {
  for (Slot& slot : slots_) slot.runner.kill();
}

// --- Calls --------------------------------------------------------------------------------------

void ProcessExecutor::start(std::vector<TaskStart>&& tasks) {
  awake_ = true;
  for (TaskStart& task : tasks) queue_.push_back(std::move(task));
  tasks.clear();
  give_chunks(steady_now());
}

void ProcessExecutor::stop(const std::vector<Lease>& leases) {
  const auto cancel = [&](const TaskStart& task) {
    results_.finished.push_back({task.lease, cancelled_unstarted(), Duration::zero()});
  };
  take_named(queue_, leases, cancel);
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  for (Slot& slot : slots_) {
    if (!slot.returned.empty()) take_named(slot.returned, leases, cancel);
    for (std::size_t i = 0; i < slot.tasks.size(); ++i) {
      if (named.count(slot.tasks[i].lease) == 0) continue;
      stopped_.insert(slot.tasks[i].lease);
      if (i == 0) kill(slot, OutcomeStatus::cancelled);
      if (i > 0) take_back(slot);
    }
  }
}

void ProcessExecutor::recall(const std::vector<Lease>& leases) {
  const auto hand_back = [&](const TaskStart& task) { results_.handed_back.push_back(task.lease); };
  take_named(queue_, leases, hand_back);
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  for (Slot& slot : slots_) {
    if (!slot.returned.empty()) take_named(slot.returned, leases, hand_back);
    for (std::size_t i = 1; i < slot.tasks.size(); ++i) {
      if (named.count(slot.tasks[i].lease) == 0) continue;
      recalled_.insert(slot.tasks[i].lease);
      take_back(slot);
    }
  }
}

void ProcessExecutor::forget(const std::vector<JobName>& jobs) {
  for (Slot& slot : slots_) {
    for (const JobName& job : jobs) slot.runner.forget(job);
  }
}

Executor::Results ProcessExecutor::poll(Time now) {
  watches_.look();
  while (const auto name = watches_.next()) take_event(*name, now);
  bool hope = false;
  for (Slot& slot : slots_) {
    RunnerProcess& runner = slot.runner;
    if (awake_ && !runner.running() && now >= runner.start_after()) runner.launch(now);
    if (awake_ && !runner.running()) {
      results_.next_poll = std::min(results_.next_poll, runner.start_after());
    }
    hope = hope || !runner.hopeless();
  }
  for (; !hope && !queue_.empty(); queue_.pop_front()) {
    report(queue_.front().lease, OutcomeStatus::error,
           {"start_failed", slots_.front().runner.start_failure(), "", {}}, Duration::zero());
  }
  give_chunks(now);
  for (Slot& slot : slots_) {
    check_deadline(slot, now);
    slot.runner.take_output(results_, now);
  }
  return std::exchange(results_, {});
}

void ProcessExecutor::take_event(WatchSet::Name name, Time now) {
  Slot& slot = slots_[name.slot];
  switch (RunnerProcess::source_of(name)) {
    case RunnerProcess::Source::exit:
      finish_exit(slot, now);
      return;
    case RunnerProcess::Source::link:
      read_link(slot, now);
      slot.runner.flush();
      return;
    case RunnerProcess::Source::output:
    case RunnerProcess::Source::error_output:
      slot.runner.read_output(slot.running(), now);
      return;
  }
}

// --- Tasks out ----------------------------------------------------------------------------------

void ProcessExecutor::give_chunks(Time now) {
  if (queue_.empty()) return;
  std::size_t depth = 1;
  if (mean_ > Duration::zero()) {
    depth = std::clamp<std::size_t>(static_cast<std::size_t>(kChunkWork / mean_), 1, kMostAhead);
  }
  const std::size_t share = (queue_.size() + slots_.size() - 1) / slots_.size();
  const bool has_gpus = !options_.gpus.empty();
  bool given = true;
  while (given) {  // once, unless accelerators differ
    given = false;
    for (Slot& slot : slots_) {
      if (queue_.empty()) return;
      if (!takes_more(slot, depth, now)) continue;
      if (has_gpus && *slot.runner.devices() != devices_of(queue_.front())) continue;
      give_chunk(slot, std::min(share, depth - slot.tasks.size()), now);
      given = has_gpus;
    }
  }
  if (has_gpus) make_room_for_devices();
}

bool ProcessExecutor::takes_more(const Slot& slot, std::size_t depth, Time now) const {
  if (!slot.runner.takes_tasks() || slot.taking_back || slot.tasks.size() > depth / 2) return false;
  return slot.tasks.empty() || now - slot.task_started < kSlowTask;
}

// The first task waits, and no free runner has its accelerators: one of the others is started anew.
void ProcessExecutor::make_room_for_devices() {
  if (queue_.empty()) return;
  const std::string wanted = devices_of(queue_.front());
  const auto is_idle = [](const Slot& slot) {
    return slot.runner.takes_tasks() && slot.tasks.empty() && !slot.taking_back;
  };
  for (const Slot& slot : slots_) {  // one that is starting, or free
    if (*slot.runner.devices() == wanted && !slot.runner.ready()) return;
    if (*slot.runner.devices() == wanted && (is_idle(slot) || slot.runner.killed())) return;
  }
  for (Slot& slot : slots_) {
    if (!is_idle(slot)) continue;
    slot.runner.set_devices(wanted);
    slot.runner.kill();
    return;
  }
}

std::string ProcessExecutor::devices_of(const TaskStart& task) const {
  return join_gpus(options_.gpus, task.devices);
}

// The first of the slot's tasks starts to run.
void ProcessExecutor::task_starts(Slot& slot, Time now) {
  slot.task_started = now;
  slot.memory.end();
  if (slot.tasks.empty()) return;
  const std::uint64_t limit = options_.memory.limit_of(slot.tasks.front().spec->resources);
  if (limit > 0) slot.memory.begin(slot.runner.process(), limit, now);
}

void ProcessExecutor::give_chunk(Slot& slot, std::size_t count, Time now) {
  const bool was_idle = slot.tasks.empty();
  if (was_idle) slot.runner.clear_tail(now);
  std::size_t size_bytes = 0;
  for (std::size_t i = 0; i < count && !queue_.empty(); ++i) {
    TaskStart& task = queue_.front();
    size_bytes += task.payload.bytes.size();
    if (i > 0 && size_bytes > kChunkBytes) break;
    if (i > 0 && !options_.gpus.empty() && *slot.runner.devices() != devices_of(task)) break;
    slot.runner.hand(task);
    slot.tasks.push_back(std::move(task));
    queue_.pop_front();
  }
  if (was_idle) task_starts(slot, now);
  slot.runner.flush();
}

void ProcessExecutor::take_back(Slot& slot) {
  if (slot.taking_back || !slot.runner.takes_tasks()) return;
  slot.taking_back = true;
  const Lease& lease = slot.tasks.front().lease;
  slot.runner.send(message::Recall{lease.session, lease.job, {}});
  slot.runner.flush();
}

void ProcessExecutor::kill(Slot& slot, OutcomeStatus status) {
  if (slot.ending != OutcomeStatus::result) return;
  slot.ending = status;
  slot.ending_lease = slot.tasks.front().lease;
  slot.runner.kill();
}

void ProcessExecutor::check_deadline(Slot& slot, Time now) {
  if (slot.tasks.empty() || slot.ending != OutcomeStatus::result) return;
  const auto timeout = slot.tasks.front().spec->timeout;
  if (timeout.count() > 0) {
    const Time deadline = slot.task_started + timeout;
    if (now >= deadline) {
      kill(slot, OutcomeStatus::timed_out);
      return;
    }
    results_.next_poll = std::min(results_.next_poll, deadline);
  }
  if (slot.memory.exceeded(now)) {
    kill(slot, OutcomeStatus::error);
    return;
  }
  results_.next_poll = std::min(results_.next_poll, slot.memory.next_look());
  if (slot.tasks.size() > 1 && !slot.taking_back) {
    const Time look = slot.task_started + kSlowTask;
    if (now >= look) take_back(slot);
    results_.next_poll = std::min(results_.next_poll, std::max(look, now + kSlowTask));
  }
}

// --- Outcomes in --------------------------------------------------------------------------------

void ProcessExecutor::read_link(Slot& slot, Time now) {
  Message message;
  while (slot.runner.next(message)) {
    if (auto* outcomes = std::get_if<message::WorkerOutcomes>(&message)) {
      take_outcome(slot, *outcomes, now);
    } else if (auto* returned = std::get_if<message::Returned>(&message)) {
      take_returned(slot, *returned);
    } else if (auto* output = std::get_if<message::WorkerOutput>(&message)) {
      results_.outputs.push_back(std::move(*output));
    }
  }
}

void ProcessExecutor::take_outcome(Slot& slot, message::WorkerOutcomes& report_of, Time now) {
  if (slot.tasks.empty() || report_of.runs.empty() || report_of.runs[0].outcomes.empty()) return;
  const Lease lease = slot.tasks.front().lease;
  if (report_of.runs[0].first != lease.sequence || report_of.job != lease.job ||
      report_of.session != lease.session) {
    return;
  }
  slot.runner.end_output(slot.tasks.front(), now);
  slot.tasks.pop_front();
  task_starts(slot, now);
  const Duration sample = std::max(report_of.busy, Duration{1});
  mean_ = mean_ == Duration::zero() ? sample : mean_ + (sample - mean_) / (1 << kMeanShift);
  mean_ = std::max(mean_, Duration{1});
  if (!stopped_.empty()) stopped_.erase(lease);
  if (!recalled_.empty()) recalled_.erase(lease);
  results_.finished.push_back({lease, std::move(report_of.runs[0].outcomes[0]), report_of.busy});
  if (!slot.tasks.empty() && stopped_.count(slot.tasks.front().lease) > 0) {
    kill(slot, OutcomeStatus::cancelled);
  }
}

void ProcessExecutor::take_returned(Slot& slot, const message::Returned& returned) {
  if (returned.leases.empty()) {  // the last one
    slot.taking_back = false;
    requeue(slot.returned);
    return;
  }
  const Lease lease{returned.session, returned.job, returned.leases[0].first,
                    returned.leases[0].attempt};
  const auto found = std::find_if(slot.tasks.begin(), slot.tasks.end(),
                                  [&](const TaskStart& task) { return task.lease == lease; });
  if (found == slot.tasks.end()) return;
  slot.returned.push_back(std::move(*found));
  slot.tasks.erase(found);
}

// The runner's process ended: its last outcomes, the task it ended in, and the rest of its chunk.
void ProcessExecutor::finish_exit(Slot& slot, Time now) {
  if (!slot.runner.ended()) return;
  read_link(slot, now);
  slot.runner.read_output(slot.running(), now);
  if (!slot.tasks.empty()) slot.runner.end_output(slot.tasks.front(), now);
  const bool ready = slot.runner.ready();
  const RunnerProcess::End end = slot.runner.take_end(slot.tasks.empty(), now);
  // The task that it was killed for may have ended just before: the next one is to run again.
  const bool innocent = slot.ending != OutcomeStatus::result && !slot.tasks.empty() &&
                        slot.tasks.front().lease != slot.ending_lease;
  if (ready && !slot.tasks.empty() && !innocent) {
    const TaskStart task = std::move(slot.tasks.front());
    slot.tasks.pop_front();
    const Duration busy = now - slot.task_started;
    if (slot.ending == OutcomeStatus::timed_out) {
      report(task.lease, OutcomeStatus::timed_out,
             {"timed_out",
              fmt::format("ran longer than its timeout of {} ms and was killed",
                          task.spec->timeout.count()),
              end.last_lines,
              {}},
             busy);
    } else if (slot.ending == OutcomeStatus::cancelled) {
      report(task.lease, OutcomeStatus::cancelled,
             {"cancelled", "cancelled while it ran", end.last_lines, {}}, busy);
    } else if (slot.ending == OutcomeStatus::error) {
      Failure failure = slot.memory.failure("the process that ran the task");
      failure.traceback = end.last_lines;
      report(task.lease, OutcomeStatus::error, failure, busy);
    } else {
      report(task.lease, OutcomeStatus::error, crash_failure(task, end, 1), busy);
    }
  }
  requeue(slot.returned);
  requeue(slot.tasks);
  slot.taking_back = false;
  slot.ending = OutcomeStatus::result;
  slot.memory.end();
}

// Tasks that a runner had and did not start: to the head of the queue, unless unwanted meanwhile.
void ProcessExecutor::requeue(std::deque<TaskStart>& tasks) {
  for (; !tasks.empty(); tasks.pop_back()) {
    TaskStart& task = tasks.back();
    if (stopped_.erase(task.lease) > 0) {
      recalled_.erase(task.lease);
      results_.finished.push_back({task.lease, cancelled_unstarted(), Duration::zero()});
    } else if (recalled_.erase(task.lease) > 0) {
      results_.handed_back.push_back(task.lease);
    } else {
      queue_.push_front(std::move(task));
    }
  }
}

void ProcessExecutor::report(const Lease& lease, OutcomeStatus status, const Failure& failure,
                             Duration busy) {
  stopped_.erase(lease);
  recalled_.erase(lease);
  results_.finished.push_back({lease, failed(status, failure), busy});
}

}  // namespace muster
