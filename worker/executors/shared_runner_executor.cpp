#include "worker/executors/shared_runner_executor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "worker/agent/waiting.hpp"
#include "worker/system/clock.hpp"

namespace muster {
SharedRunnerExecutor::SharedRunnerExecutor(SharedRunnerExecutorOptions options)
    : options_(std::move(options)), runner_(options_.runner, watches_, 0) {
  runner_.launch(steady_now());
}

void SharedRunnerExecutor::start(std::vector<TaskStart>&& tasks) {
  for (TaskStart& task : tasks) queue_.push_back(std::move(task));
  tasks.clear();
  give(steady_now());
}

void SharedRunnerExecutor::stop(const std::vector<Lease>& leases) {
  take_named(queue_, leases, [&](const TaskStart& task) {
    results_.finished.push_back({task.lease, cancelled_unstarted(), Duration::zero()});
  });
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  const Time now = steady_now();
  for (Running& running : running_) {
    if (running.reported || named.count(running.task.lease) == 0) continue;
    end_early(running, OutcomeStatus::cancelled, "cancelled while it ran", now);
  }
  runner_.flush();
}

void SharedRunnerExecutor::recall(const std::vector<Lease>& leases) {
  take_named(queue_, leases,
             [&](const TaskStart& task) { results_.handed_back.push_back(task.lease); });
}

void SharedRunnerExecutor::forget(const std::vector<JobName>& jobs) {
  for (const JobName& job : jobs) runner_.forget(job);
}

Executor::Results SharedRunnerExecutor::poll(Time now) {
  take_events(now);
  if (!runner_.running() && now >= runner_.start_after()) runner_.launch(now);
  if (!runner_.running()) results_.next_poll = std::min(results_.next_poll, runner_.start_after());
  for (; runner_.hopeless() && !queue_.empty(); queue_.pop_front()) {
    results_.finished.push_back(
        {queue_.front().lease,
         failed(OutcomeStatus::error, {"start_failed", runner_.start_failure(), "", {}}),
         Duration::zero()});
  }
  give(now);
  check_deadlines(now);
  runner_.take_output(results_, now);
  results_.stuck_slots = static_cast<std::uint32_t>(std::count_if(
      running_.begin(), running_.end(), [](const Running& running) { return running.reported; }));
  return std::exchange(results_, {});
}

void SharedRunnerExecutor::take_events(Time now) {
  watches_.look();
  while (const auto name = watches_.next()) {
    switch (RunnerProcess::source_of(*name)) {
      case RunnerProcess::Source::exit:
        finish_exit(now);
        break;
      case RunnerProcess::Source::link:
        read_link(now);
        runner_.flush();
        break;
      case RunnerProcess::Source::output:
      case RunnerProcess::Source::error_output:
        runner_.read_output(speaker(), now);
        break;
    }
  }
}

void SharedRunnerExecutor::give(Time now) {
  if (queue_.empty() || !runner_.takes_tasks()) return;
  if (running_.empty()) {
    runner_.clear_tail(now);
  } else {
    runner_.read_output(speaker(), now);
  }
  while (!queue_.empty() && running_.size() < options_.slots) {
    runner_.hand(queue_.front());
    queue_.front().payload = {};
    running_.push_back({std::move(queue_.front()), now, false});
    queue_.pop_front();
  }
  runner_.flush();
}

void SharedRunnerExecutor::read_link(Time now) {
  Message message;
  while (runner_.next(message)) {
    if (auto* outcomes = std::get_if<message::WorkerOutcomes>(&message)) {
      take_outcome(*outcomes, now);
    } else if (auto* output = std::get_if<message::WorkerOutput>(&message)) {
      results_.outputs.push_back(std::move(*output));
    }
  }
}

void SharedRunnerExecutor::take_outcome(message::WorkerOutcomes& report_of, Time now) {
  if (report_of.runs.empty() || report_of.runs[0].outcomes.empty()) return;
  const Lease lease{report_of.session, report_of.job, report_of.runs[0].first,
                    report_of.runs[0].attempt};
  const auto found = std::find_if(running_.begin(), running_.end(), [&](const Running& running) {
    return running.task.lease == lease;
  });
  if (found == running_.end()) return;
  if (found == running_.end() - 1) {
    runner_.end_output(found->task, now);
  } else {
    runner_.read_output(speaker(), now);
  }
  if (found->reported) {
    discard_result(home_, report_of.runs[0].outcomes[0].body);
  } else {
    results_.finished.push_back({lease, std::move(report_of.runs[0].outcomes[0]), report_of.busy});
  }
  running_.erase(found);
}

void SharedRunnerExecutor::check_deadlines(Time now) {
  for (Running& running : running_) {
    const auto timeout = running.task.spec->timeout;
    if (running.reported || timeout.count() == 0) continue;
    const Time deadline = running.started + timeout;
    if (now >= deadline) {
      end_early(running, OutcomeStatus::timed_out,
                fmt::format("ran longer than its timeout of {} ms", timeout.count()), now);
    } else {
      results_.next_poll = std::min(results_.next_poll, deadline);
    }
  }
  runner_.flush();
}

// Reports the task as ended; its slot is stuck until the runner says the same.
void SharedRunnerExecutor::end_early(Running& running, OutcomeStatus status,
                                     const std::string& reason, Time now) {
  const Lease& lease = running.task.lease;
  running.reported = true;
  results_.finished.push_back(
      {lease,
       failed(status, {status == OutcomeStatus::timed_out ? "timed_out" : "cancelled",
                       reason + "; a thread cannot be killed, so its slot stays taken until the "
                                "function returns (the process executor ends it at once)",
                       "",
                       {}}),
       now - running.started});
  runner_.send(message::StopTasks{lease.session, lease.job, {{lease.sequence, 1, lease.attempt}}});
}

// The process ended: so did every task that ran in it.
void SharedRunnerExecutor::finish_exit(Time now) {
  if (!runner_.ended()) return;
  read_link(now);
  runner_.read_output(speaker(), now);
  if (!running_.empty()) runner_.end_output(*speaker(), now);
  const RunnerProcess::End end = runner_.take_end(running_.empty(), now);
  for (const Running& running : running_) {
    if (running.reported) continue;
    results_.finished.push_back(
        {running.task.lease,
         failed(OutcomeStatus::error, crash_failure(running.task, end, running_.size())),
         now - running.started});
  }
  running_.clear();
}

}  // namespace muster
