// The process executor's talk with its runners: chunks of tasks out, outcomes in.
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "worker/clock.hpp"
#include "worker/process_executor.hpp"

namespace muster {
namespace {

// A runner gets about this much work ahead: more than the round trip to the daemon.
constexpr Duration kChunkWork = std::chrono::milliseconds(1);
constexpr std::size_t kMostAhead = 1024;
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

// Each new duration moves the mean by an eighth.
constexpr int kMeanShift = 3;

}  // namespace

void ProcessExecutor::give_chunks(Time now) {
  if (queue_.empty()) return;
  std::size_t depth = 1;
  if (mean_ > Duration::zero()) {
    depth = std::clamp<std::size_t>(static_cast<std::size_t>(kChunkWork / mean_), 1, kMostAhead);
  }
  const std::size_t share = (queue_.size() + runners_.size() - 1) / runners_.size();
  for (std::size_t slot = 0; slot < runners_.size() && !queue_.empty(); ++slot) {
    Runner& runner = runners_[slot];
    if (!runner.ready || runner.ending != OutcomeStatus::result || runner.taking_back) continue;
    if (!runner.link.valid() || runner.tasks.size() > depth / 2) continue;
    if (!runner.tasks.empty() && now - runner.task_started >= kSlowTask) continue;
    give_chunk(runner, std::min(share, depth - runner.tasks.size()), now);
    flush(runner, slot);
  }
}

void ProcessExecutor::give_chunk(Runner& runner, std::size_t count, Time now) {
  if (runner.tasks.empty()) {
    runner.task_started = now;
    read_error_output(runner);
    runner.error_tail.clear();
  }
  message::Tasks tasks;
  std::size_t size_bytes = 0;
  const auto send = [&] {
    if (!tasks.runs.empty()) append_message(runner.unsent, std::exchange(tasks, {}));
  };
  for (std::size_t i = 0; i < count && !queue_.empty(); ++i) {
    TaskStart& task = queue_.front();
    size_bytes += task.payload.bytes.size();
    if (i > 0 && size_bytes > kChunkBytes) break;
    if (task.spec != runner.last_spec) {
      send();
      declare(runner, task);
    }
    if (tasks.session != task.lease.session || tasks.job != task.lease.job) {
      send();
      tasks.session = task.lease.session;
      tasks.job = task.lease.job;
    }
    if (tasks.runs.empty() || tasks.runs.back().attempt != task.lease.attempt ||
        tasks.runs.back().first + tasks.runs.back().payloads.size() != task.lease.sequence) {
      tasks.runs.push_back({task.lease.sequence, task.lease.attempt, {}});
    }
    tasks.runs.back().payloads.push_back(task.payload);
    runner.tasks.push_back(std::move(task));
    queue_.pop_front();
  }
  send();
}

// A runner keeps one job at a time: declaring one costs little beside running it.
void ProcessExecutor::declare(Runner& runner, const TaskStart& task) {
  if (runner.last_spec != nullptr) {
    append_message(runner.unsent, message::ForgetJob{runner.last_session, runner.last_job});
  }
  runner.last_spec = task.spec;
  runner.last_session = task.lease.session;
  runner.last_job = task.lease.job;
  append_message(runner.unsent, message::WorkerJob{task.lease.session, task.lease.job, *task.spec});
}

void ProcessExecutor::flush(Runner& runner, std::size_t slot) {
  std::size_t sent = 0;
  while (sent < runner.unsent.size() && runner.link.valid()) {
    const ssize_t written =
        ::write(runner.link.get(), runner.unsent.data() + sent, runner.unsent.size() - sent);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) break;  // full, or the runner is gone: its exit says so
    sent += static_cast<std::size_t>(written);
  }
  runner.unsent.erase(0, sent);
  const bool wanted = !runner.unsent.empty();
  if (wanted == runner.wants_write || !runner.link.valid()) return;
  runner.wants_write = wanted;
  epoll_event event{EPOLLIN, {}};
  if (wanted) event.events |= EPOLLOUT;
  event.data.u64 = slot << 2 | static_cast<std::uint64_t>(Source::link);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, runner.link.get(), &event);
}

void ProcessExecutor::take_back(Runner& runner, std::size_t slot) {
  if (runner.taking_back || !runner.link.valid()) return;
  runner.taking_back = true;
  message::Recall recall{runner.last_session, runner.last_job, {}};
  append_message(runner.unsent, recall);
  flush(runner, slot);
}

void ProcessExecutor::read_link(Runner& runner, Time now) {
  while (runner.link.valid()) {
    std::size_t size_bytes = 0;
    char* space = runner.reader.space(size_bytes);
    const ssize_t got = ::read(runner.link.get(), space, size_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) break;
    runner.reader.filled(static_cast<std::size_t>(got));
    Message message;
    MessageReader::Status status = runner.reader.next(message);
    for (; status == MessageReader::Status::message; status = runner.reader.next(message)) {
      receive(runner, message, now);
    }
    if (status == MessageReader::Status::broken) break;
    if (static_cast<std::size_t>(got) < size_bytes) return;
  }
  // Task code closed or garbled the link, or the process is ending: make sure that it does.
  runner.link.reset();
  if (runner.process.pid >= 0) ::kill(-runner.process.pid, SIGKILL);
}

void ProcessExecutor::receive(Runner& runner, Message& message, Time now) {
  if (auto* outcomes = std::get_if<message::WorkerOutcomes>(&message)) {
    take_outcome(runner, *outcomes, now);
  } else if (auto* returned = std::get_if<message::Returned>(&message)) {
    take_returned(runner, *returned);
  } else if (std::holds_alternative<message::Heartbeat>(message)) {
    runner.ready = true;
    runner.failed_starts = 0;
  }
}

void ProcessExecutor::take_outcome(Runner& runner, message::WorkerOutcomes& report_of, Time now) {
  if (runner.tasks.empty() || report_of.runs.empty() || report_of.runs[0].outcomes.empty()) return;
  const Lease lease = runner.tasks.front().lease;
  if (report_of.runs[0].first != lease.sequence || report_of.job != lease.job ||
      report_of.session != lease.session) {
    return;
  }
  Outcome& outcome = report_of.runs[0].outcomes[0];
  runner.tasks.pop_front();
  runner.idle_deaths = 0;
  runner.task_started = now;
  const Duration sample = std::max(report_of.busy, Duration{1});
  mean_ = mean_ == Duration::zero() ? sample : mean_ + (sample - mean_) / (1 << kMeanShift);
  mean_ = std::max(mean_, Duration{1});
  if (!stopped_.empty()) stopped_.erase(lease);
  if (!recalled_.empty()) recalled_.erase(lease);
  results_.finished.push_back({lease, std::move(outcome), report_of.busy});
  if (!runner.tasks.empty() && stopped_.count(runner.tasks.front().lease) > 0) {
    kill(runner, OutcomeStatus::cancelled);
  }
}

void ProcessExecutor::take_returned(Runner& runner, const message::Returned& returned) {
  if (returned.leases.empty()) {  // the last one
    runner.taking_back = false;
    requeue(runner.returned);
    return;
  }
  const Lease lease{returned.session, returned.job, returned.leases[0].first,
                    returned.leases[0].attempt};
  const auto found = std::find_if(runner.tasks.begin(), runner.tasks.end(),
                                  [&](const TaskStart& task) { return task.lease == lease; });
  if (found == runner.tasks.end()) return;
  runner.returned.push_back(std::move(*found));
  runner.tasks.erase(found);
}

}  // namespace muster
