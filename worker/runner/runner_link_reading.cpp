// How a RunnerLink reads: who does, when, and what it makes of the daemon's messages.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "common/system/quiet_thread.hpp"
#include "worker/runner/runner_link_state.hpp"

namespace muster {
namespace {

constexpr int kBrokenLink = 3;
// A task that runs for so long does not keep its thread from reading: the background thread does.
constexpr Duration kTakeOver = std::chrono::milliseconds(1);
// How often the background thread looks whether a task began while others read, and for how long
// after the last one. Then it has to be told, which costs the task a wake-up.
constexpr Duration kLook = std::chrono::milliseconds(5);
constexpr Duration kAttentive = std::chrono::milliseconds(100);

}  // namespace

// --- Reading ------------------------------------------------------------------------------------

void RunnerLink::State::start_reader() {
  background_runs_ = true;
  quiet_thread([this] { keep_reading(); }).detach();
}

void RunnerLink::State::end() {
  if (!abandoned_) {
    closing_ = true;
    ::shutdown(link_, SHUT_RDWR);
    std::unique_lock lock(mutex_);
    background_.notify_all();
    changed_.wait(lock, [this] { return !background_runs_; });
    ::close(link_);
  }
}

void RunnerLink::State::leave(int status) {
  ::_exit(status);  // from whatever the other threads do
}

// The background thread.
void RunnerLink::State::keep_reading() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    if (pass_time(lock)) continue;
    background_leads_ = true;
    read_as_leader(lock);
    background_leads_ = false;
    if (waiting_ > 0) changed_.notify_one();  // it leads from here on
  }
  background_runs_ = false;
  changed_.notify_all();
}

// False when nobody else reads, and has not for a while.
bool RunnerLink::State::pass_time(std::unique_lock<std::mutex>& lock) {
  const Duration since = steady_now() - left_;
  if (led_ && since > kAttentive) {
    background_parked_ = true;
    background_.wait(lock, [this] { return !led_ || closing_; });
    background_parked_ = false;
  } else if (led_) {
    background_.wait_for(lock, kLook);
  } else if (since < kTakeOver) {
    background_.wait_for(lock, kTakeOver - since);
  } else if (waiting_ > 0) {
    background_.wait_for(lock, kTakeOver);  // one of them was told, and is about to lead
  } else {
    return false;
  }
  return true;
}

// Reads once, without the lock.
void RunnerLink::State::read_as_leader(std::unique_lock<std::mutex>& lock) {
  led_ = true;
  lock.unlock();
  read_some();
  lock.lock();
  led_ = false;
}

void RunnerLink::State::read_some() {
  std::array<pollfd, 2> events{pollfd{link_, POLLIN, 0}, pollfd{waker_.descriptor(), POLLIN, 0}};
  const int wait_ms = due_in_ms();
  if (wait_ms == 0) {
    write_lines();
    blobs_.tick(steady_now());
  }
  if (::poll(events.data(), events.size(), wait_ms) < 0) return;
  if (events[1].revents != 0) waker_.take();
  if (events[0].revents == 0) return;
  std::size_t size_bytes = 0;
  char* space = reader_.space(size_bytes);
  const ssize_t got = ::read(link_, space, size_bytes);
  if ((got < 0 && (errno == EINTR || errno == EAGAIN)) || closing_) return;
  if (got <= 0) leave(0);  // the daemon is gone
  reader_.filled(static_cast<std::size_t>(got));
  Message message;
  MessageReader::Status status = reader_.next(message);
  for (; status == MessageReader::Status::message; status = reader_.next(message)) {
    receive(std::move(message));
  }
  if (status == MessageReader::Status::broken) leave(kBrokenLink);
}

void RunnerLink::State::receive(Message&& message) {
  if (auto* job = std::get_if<message::WorkerJob>(&message)) {
    declare(std::move(*job));
  } else if (auto* tasks = std::get_if<message::Tasks>(&message)) {
    queue_tasks(std::move(*tasks));
  } else if (const auto* recall = std::get_if<message::Recall>(&message)) {
    take_back(*recall);
  } else if (const auto* stop = std::get_if<message::StopTasks>(&message)) {
    stop_tasks(*stop);
  } else if (const auto* forgotten = std::get_if<message::ForgetJob>(&message)) {
    forget_job({forgotten->session, forgotten->job});
  } else if (auto* answer = std::get_if<message::StoreAnswer>(&message)) {
    take_answer(std::move(*answer));
  } else {
    leave(kBrokenLink);
  }
}

void RunnerLink::State::declare(message::WorkerJob&& m) {
  const JobName name{m.session, m.job};
  forget_job(name);  // another job took over its number
  auto made = std::make_shared<RunnerJob>();
  made->key = next_key_++;
  made->name = std::move(m.spec.function.name);
  made->inline_results = m.spec.inline_results;
  auto opened = blobs_.unpack(m.spec.function.body, "function", steady_now());
  std::optional<Failure> failure;
  if (auto* function = std::get_if<OpenPayload>(&opened)) {
    made->body = std::move(function->body);
    made->blobs = std::move(function->blobs);
  } else {
    failure = std::move(std::get<Failure>(opened));
  }
  jobs_[name] = std::make_shared<const DeclaredJob>(
      DeclaredJob{std::move(made), m.spec.forward_output, std::move(failure)});
}

void RunnerLink::State::queue_tasks(message::Tasks&& m) {
  const auto found = jobs_.find({m.session, m.job});
  if (found == jobs_.end()) leave(kBrokenLink);
  std::size_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    for (TaskRun& run : m.runs) {
      for (std::size_t i = 0; i < run.payloads.size(); ++i, ++count) {
        const Lease lease{m.session, m.job, run.first + i, run.attempt};
        queue_.push_back({next_id_++, lease, found->second, std::move(run.payloads[i]), {}});
      }
    }
  }
  if (count == 1) changed_.notify_one();
  if (count > 1) changed_.notify_all();
}

void RunnerLink::State::stop_tasks(const message::StopTasks& m) {
  const auto named = [&](const HeldTask& task) {
    if (task.lease.session != m.session || task.lease.job != m.job) return false;
    return std::any_of(m.leases.begin(), m.leases.end(), [&](const LeaseRange& range) {
      return task.lease.attempt == range.attempt && task.lease.sequence >= range.first &&
             value(task.lease.sequence) - value(range.first) < range.count;
    });
  };
  cancel_queued(named);
  std::vector<std::uint64_t> running;
  {
    const std::lock_guard lock(mutex_);
    for (const HeldTask& task : started_) {
      if (named(task)) running.push_back(task.id);
    }
  }
  if (!options_.on_stop) return;
  for (const std::uint64_t id : running) options_.on_stop(id);
}

void RunnerLink::State::forget_job(const JobName& name) {
  const auto found = jobs_.find(name);
  if (found == jobs_.end()) return;
  const std::lock_guard lock(mutex_);
  leaving_.push_back(std::move(found->second));
  jobs_.erase(found);
}

// Ends the tasks that nobody has started and that are wanted no more.
template <typename Wanted>
void RunnerLink::State::cancel_queued(Wanted&& wanted) {
  std::vector<Lease> cancelled;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(queue_, [&](const HeldTask& task) {
      if (!wanted(task)) return false;
      cancelled.push_back(task.lease);
      return true;
    });
  }
  for (const Lease& lease : cancelled) {
    report(lease, Duration::zero(), cancelled_unstarted());
  }
}

// Returns everything that has not started, one RETURNED per task, then one that is empty.
void RunnerLink::State::take_back(const message::Recall& recall) {
  std::deque<HeldTask> unstarted;
  {
    const std::lock_guard lock(mutex_);
    unstarted.swap(queue_);
  }
  for (const HeldTask& task : unstarted) {
    write(message::Returned{
        task.lease.session, task.lease.job, {{task.lease.sequence, 1, task.lease.attempt}}});
  }
  write(message::Returned{recall.session, recall.job, {}});
}

}  // namespace muster
