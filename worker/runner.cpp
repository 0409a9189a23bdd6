#include "worker/runner.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <thread>

#include "worker/clock.hpp"

namespace muster {
namespace {

constexpr int kBrokenLink = 3;

}  // namespace

void Runner::run() {
  std::thread([this] { read_link(); }).detach();
  write(message::Heartbeat{});          // ready
  const std::atomic<bool> stop{false};  // a runner is killed instead
  while (true) {
    const TaskStart task = next_task();
    const std::string& name = task.spec->function.name;
    const Time started = steady_now();
    const RawFunction* function = functions_.find(name);
    Outcome outcome = function == nullptr
                          ? functions_.unknown_function(name)
                          : call_function(name, *function, task.payload,
                                          TaskContext(value(task.lease.attempt), stop),
                                          functions_.max_result_bytes());
    message::WorkerOutcomes report{task.lease.session, task.lease.job, steady_now() - started, {}};
    report.runs.push_back({task.lease.sequence, task.lease.attempt, {}});
    report.runs.back().outcomes.push_back(std::move(outcome));
    write(std::move(report));
  }
}

TaskStart Runner::next_task() {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [this] { return !queue_.empty(); });
  TaskStart task = std::move(queue_.front());
  queue_.pop_front();
  return task;
}

void Runner::read_link() {
  MessageReader reader;
  while (true) {
    Message message;
    switch (reader.next(message)) {
      case MessageReader::Status::message:
        receive(std::move(message));
        continue;
      case MessageReader::Status::broken:
        ::_exit(kBrokenLink);
      case MessageReader::Status::incomplete:
        break;
    }
    std::size_t size_bytes = 0;
    char* space = reader.space(size_bytes);
    const ssize_t got = ::read(link_, space, size_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) ::_exit(0);  // the daemon is gone
    reader.filled(static_cast<std::size_t>(got));
  }
}

void Runner::receive(Message&& message) {
  if (auto* job = std::get_if<message::WorkerJob>(&message)) {
    jobs_[{job->session, job->job}] = std::make_shared<const JobSpec>(std::move(job->spec));
  } else if (auto* tasks = std::get_if<message::Tasks>(&message)) {
    const auto spec = jobs_[{tasks->session, tasks->job}];
    if (spec == nullptr) ::_exit(kBrokenLink);
    const std::lock_guard lock(mutex_);
    for (TaskRun& run : tasks->runs) {
      for (std::size_t i = 0; i < run.payloads.size(); ++i) {
        const Lease lease{tasks->session, tasks->job, run.first + i, run.attempt};
        queue_.push_back({lease, spec, std::move(run.payloads[i])});
      }
    }
    work_.notify_one();
  } else if (std::holds_alternative<message::Recall>(message)) {
    take_back(std::get<message::Recall>(message));
  } else if (auto* forgotten = std::get_if<message::ForgetJob>(&message)) {
    jobs_.erase({forgotten->session, forgotten->job});
  } else {
    ::_exit(kBrokenLink);
  }
}

// Returns everything that has not started, one RETURNED per job, then one that is empty.
void Runner::take_back(const message::Recall& recall) {
  std::deque<TaskStart> unstarted;
  {
    const std::lock_guard lock(mutex_);
    unstarted.swap(queue_);
  }
  for (const TaskStart& task : unstarted) {
    write(message::Returned{
        task.lease.session, task.lease.job, {{task.lease.sequence, 1, task.lease.attempt}}});
  }
  write(message::Returned{recall.session, recall.job, {}});
}

void Runner::write(const Message& message) {
  const std::lock_guard lock(write_mutex_);
  static thread_local std::string bytes;
  bytes.clear();
  append_message(bytes, message);
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const ssize_t written = ::write(link_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) ::_exit(0);
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  if (bytes.capacity() > std::size_t{4} << 20) std::string().swap(bytes);
}

}  // namespace muster
