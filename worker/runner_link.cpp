#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <muster/runner.hpp>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <unordered_map>
#include <utility>

#include "worker/clock.hpp"
#include "worker/frame_link.hpp"
#include "worker/lease.hpp"
#include "worker/output_gate.hpp"
#include "worker/waiting.hpp"

namespace muster {
namespace {

constexpr int kBrokenLink = 3;
// How long a line waits for others, or for its task's outcome.
constexpr Duration kGatherLines = std::chrono::milliseconds(100);
// A task that runs for so long does not keep its thread from reading: the background thread does.
constexpr Duration kTakeOver = std::chrono::milliseconds(1);
// How often the background thread looks whether a task began while others read, and for how long
// after the last one. Then it has to be told, which costs the task a wake-up.
constexpr Duration kLook = std::chrono::milliseconds(5);
constexpr Duration kAttentive = std::chrono::milliseconds(100);
// The buffer for messages is kept for the next one unless it has grown beyond this.
constexpr std::size_t kKeptBytes = std::size_t{4} << 20;

// A job as the daemon declared it.
struct DeclaredJob {
  std::shared_ptr<const RunnerJob> job;
  bool forward_output = false;
  bool damaged = false;  // its packed body cannot be unpacked
};

struct HeldTask {
  std::uint64_t id = 0;
  Lease lease;
  std::shared_ptr<const DeclaredJob> job;
  Payload payload;  // until it starts
  Time started{};
};

}  // namespace

class RunnerLink::State {
 public:
  State(int descriptor, Options options) : link_(descriptor), options_(std::move(options)) {}

  void start_reader();
  void end();

  RunnerTask next();
  void finish(std::uint64_t task_id, Bytes result);
  void fail(std::uint64_t task_id, const Failure& failure);
  void say(std::uint64_t task_id, message::OutputLine&& line);
  std::vector<std::uint64_t> forgotten();
  void write(const Message& message);
  void abandon();

 private:
  void keep_reading();
  bool pass_time(std::unique_lock<std::mutex>& lock);
  void read_as_leader(std::unique_lock<std::mutex>& lock);
  void read_some();
  void await_task(std::unique_lock<std::mutex>& lock);
  void receive(Message&& message);
  void declare(message::WorkerJob&& m);
  void queue_tasks(message::Tasks&& m);
  void stop_tasks(const message::StopTasks& m);
  void forget_job(const JobName& name);
  void take_back(const message::Recall& recall);
  template <typename Wanted>
  void cancel_queued(Wanted&& wanted);
  void end_task(std::uint64_t task_id, Outcome&& outcome);
  void report(const Lease& lease, Duration busy, Outcome&& outcome);
  void write_lines();
  void append_lines();
  void write_buffer();
  int lines_due_in_ms();
  [[noreturn]] void leave(int status);

  int link_;
  const Options options_;
  std::atomic<bool> abandoned_{false};
  std::atomic<bool> closing_{false};
  MessageReader reader_;                                                  // the leader's
  std::unordered_map<JobName, std::shared_ptr<const DeclaredJob>> jobs_;  // the leader's
  std::uint64_t next_key_ = 1;                                            // the leader's
  Waker waker_;  // the leader is to look again: lines wait, or a task's thread wants to lead

  std::mutex write_mutex_;  // one message at a time; taken before mutex_
  std::string buffer_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<HeldTask> queue_;
  std::vector<HeldTask> started_;
  std::uint64_t next_id_ = 1;
  std::vector<std::shared_ptr<const DeclaredJob>> leaving_;  // of which no task will come
  OutputGate gate_;
  // Whoever waits for a task reads the link itself (it leads): one thread less between the daemon
  // and the task. While all task threads run tasks the background thread leads.
  bool led_ = false;
  bool background_leads_ = false;
  unsigned waiting_ = 0;  // in next(), led by another
  Time left_{};           // when a task's thread ceased to lead
  std::condition_variable background_;
  bool background_parked_ = false;
  bool background_runs_ = false;
};

// --- Reading ------------------------------------------------------------------------------------

void RunnerLink::State::start_reader() {
  // Signals belong to the program's own threads.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  background_runs_ = true;
  std::thread([this] { keep_reading(); }).detach();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
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
  const int wait_ms = lines_due_in_ms();
  if (wait_ms == 0) write_lines();
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
  const std::optional<Bytes> body = unpack_payload(m.spec.function.body);
  if (body) made->body = *body;
  jobs_[name] = std::make_shared<const DeclaredJob>(
      DeclaredJob{std::move(made), m.spec.forward_output, !body.has_value()});
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

// --- The tasks' threads -------------------------------------------------------------------------

// Until there is a task.
void RunnerLink::State::await_task(std::unique_lock<std::mutex>& lock) {
  while (queue_.empty()) {
    if (!led_) {
      read_as_leader(lock);
      continue;
    }
    ++waiting_;
    if (background_leads_ && waiting_ == 1) waker_.signal();
    changed_.wait(lock, [this] { return !queue_.empty() || !led_; });
    --waiting_;
  }
  if (led_) return;
  left_ = steady_now();
  if (waiting_ > 0) {
    changed_.notify_one();  // for the rest of the queue, or to lead
  } else if (background_parked_) {
    background_.notify_one();
  }
}

RunnerTask RunnerLink::State::next() {
  while (true) {
    std::unique_lock lock(mutex_);
    await_task(lock);
    HeldTask task = std::move(queue_.front());
    queue_.pop_front();
    task.started = steady_now();
    const std::shared_ptr<const DeclaredJob> job = task.job;
    std::optional<Bytes> payload = task.payload.unpacked_bytes == 0
                                       ? std::optional(std::move(task.payload.bytes))
                                       : unpack_payload(task.payload);
    task.payload = {};
    RunnerTask taken{task.id, job->job, value(task.lease.sequence), value(task.lease.attempt), {}};
    started_.push_back(std::move(task));
    lock.unlock();
    if (payload && !job->damaged) {
      taken.payload = std::move(*payload);
      return taken;
    }
    fail(taken.id, {"bad_arguments",
                    fmt::format("the packed {} is damaged", payload ? "function" : "payload"),
                    "",
                    {}});
  }
}

void RunnerLink::State::finish(std::uint64_t task_id, Bytes result) {
  const std::size_t size_bytes = result.size();
  if (size_bytes > options_.max_result_bytes) {
    fail(task_id, {"result_too_large",
                   fmt::format("the result has {} bytes; the limit is {}: write large results to a "
                               "file and return its name",
                               size_bytes, options_.max_result_bytes),
                   "",
                   {}});
    return;
  }
  end_task(task_id, {OutcomeStatus::result, {std::move(result), 0}});
}

void RunnerLink::State::fail(std::uint64_t task_id, const Failure& failure) {
  end_task(task_id, failed(OutcomeStatus::error, failure));
}

void RunnerLink::State::end_task(std::uint64_t task_id, Outcome&& outcome) {
  if (abandoned_) return;
  const Time now = steady_now();
  HeldTask task;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(started_.begin(), started_.end(),
                                    [&](const HeldTask& held) { return held.id == task_id; });
    if (found == started_.end()) return;  // it ended before
    task = std::move(*found);
    started_.erase(found);
  }
  report(task.lease, now - task.started, std::move(outcome));
}

void RunnerLink::State::report(const Lease& lease, Duration busy, Outcome&& outcome) {
  message::WorkerOutcomes report{lease.session, lease.job, busy, {}};
  report.runs.push_back({lease.sequence, lease.attempt, {}});
  report.runs.back().outcomes.push_back(std::move(outcome));
  write(std::move(report));
}

void RunnerLink::State::say(std::uint64_t task_id, message::OutputLine&& line) {
  if (abandoned_) return;
  bool first = false;
  bool full = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(started_.begin(), started_.end(),
                                    [&](const HeldTask& held) { return held.id == task_id; });
    if (found == started_.end() || !found->job->forward_output) return;
    first = gate_.empty();
    line.sequence = found->lease.sequence;
    gate_.add(found->lease.session, found->lease.job, std::move(line), steady_now());
    full = gate_.full();
  }
  if (first) waker_.signal();
  if (full) write_lines();
}

std::vector<std::uint64_t> RunnerLink::State::forgotten() {
  std::vector<std::uint64_t> keys;
  if (abandoned_) return keys;
  const std::lock_guard lock(mutex_);
  std::erase_if(leaving_, [&](const std::shared_ptr<const DeclaredJob>& job) {
    const auto has_it = [&](const HeldTask& task) { return task.job == job; };
    if (std::any_of(queue_.begin(), queue_.end(), has_it)) return false;
    keys.push_back(job->job->key);
    return true;
  });
  return keys;
}

// In the child of a fork other threads are gone and may have held a lock: takes none.
void RunnerLink::State::abandon() {
  if (abandoned_.exchange(true)) return;
  ::close(link_);
}

// --- Writing ------------------------------------------------------------------------------------

int RunnerLink::State::lines_due_in_ms() {
  const std::lock_guard lock(mutex_);
  if (gate_.empty()) return -1;
  const Duration left = gate_.since() + kGatherLines - steady_now();
  return static_cast<int>(
      std::max<std::int64_t>(0, std::chrono::ceil<std::chrono::milliseconds>(left).count()));
}

void RunnerLink::State::append_lines() {
  std::vector<message::WorkerOutput> batches;
  {
    const std::lock_guard lock(mutex_);
    if (gate_.empty()) return;
    batches = gate_.take();
  }
  for (message::WorkerOutput& batch : batches) append_message(buffer_, std::move(batch));
}

void RunnerLink::State::write_lines() {
  const std::lock_guard lock(write_mutex_);
  append_lines();
  write_buffer();
}

// The lines that were said before go first: a task's lines are known before its outcome.
void RunnerLink::State::write(const Message& message) {
  if (abandoned_) return;
  const std::lock_guard lock(write_mutex_);
  append_lines();
  append_message(buffer_, message);
  write_buffer();
}

void RunnerLink::State::write_buffer() {
  std::string_view rest = buffer_;
  while (!rest.empty() && !closing_) {
    const ssize_t written = ::send(link_, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {  // task code may have changed the descriptor
      pollfd room{link_, POLLOUT, 0};
      ::poll(&room, 1, -1);
      continue;
    }
    if (written <= 0 && closing_) break;
    if (written <= 0) leave(0);
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  buffer_.clear();
  if (buffer_.capacity() > kKeptBytes) std::string().swap(buffer_);
}

// --- The public face ----------------------------------------------------------------------------

RunnerLink::RunnerLink(int descriptor, Options options) {
  int type = 0;
  socklen_t size_bytes = sizeof type;
  if (::getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &size_bytes) != 0 ||
      type != SOCK_STREAM || ::fcntl(descriptor, F_SETFD, FD_CLOEXEC) != 0) {
    throw std::runtime_error(fmt::format(
        "descriptor {} is no link to muster-worker: start muster-worker instead", descriptor));
  }
  state_ = std::make_unique<State>(descriptor, std::move(options));
  state_->start_reader();
}

RunnerLink::~RunnerLink() { state_->end(); }

void RunnerLink::ready() { state_->write(message::Heartbeat{}); }

RunnerTask RunnerLink::next() { return state_->next(); }

void RunnerLink::finish(std::uint64_t task_id, Bytes result) {
  state_->finish(task_id, std::move(result));
}

void RunnerLink::fail(std::uint64_t task_id, const std::string& kind, const std::string& message,
                      const std::string& traceback, Bytes extra) {
  state_->fail(task_id, {kind, message, traceback, std::move(extra)});
}

void RunnerLink::say(std::uint64_t task_id, int kind, std::uint32_t level, std::string name,
                     std::string text) {
  if (kind < 0 || kind > static_cast<int>(OutputKind::warning)) return;
  state_->say(task_id,
              {{}, static_cast<OutputKind>(kind), level, std::move(name), std::move(text)});
}

std::vector<std::uint64_t> RunnerLink::forgotten() { return state_->forgotten(); }

void RunnerLink::abandon() { state_->abandon(); }

}  // namespace muster
