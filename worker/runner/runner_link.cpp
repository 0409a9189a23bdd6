#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <muster/runner.hpp>
#include <stdexcept>
#include <utility>

#include "worker/runner/runner_link_state.hpp"

namespace muster {
namespace {

// How long a line waits for others, or for its task's outcome.
constexpr Duration kGatherLines = std::chrono::milliseconds(100);
// The buffer for messages is kept for the next one unless it has grown beyond this.
constexpr std::size_t kKeptBytes = std::size_t{4} << 20;

}  // namespace

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
    const Payload payload = std::exchange(task.payload, {});
    RunnerTask taken{task.id, job->job, value(task.lease.sequence), value(task.lease.attempt), {}};
    const Time now = task.started;
    started_.push_back(std::move(task));
    lock.unlock();
    if (job->failure) {
      fail(taken.id, *job->failure);
      continue;
    }
    auto opened = blobs_.unpack(payload, "payload", now);
    if (const auto* failure = std::get_if<Failure>(&opened)) {
      fail(taken.id, *failure);
      continue;
    }
    taken.payload = std::move(std::get<OpenPayload>(opened).body);
    taken.blobs = std::move(std::get<OpenPayload>(opened).blobs);
    return taken;
  }
}

void RunnerLink::State::finish(std::uint64_t task_id, Bytes result,
                               const std::vector<Blob>& blobs) {
  if (abandoned_) return;
  const std::optional<HeldTask> task = take_started(task_id);
  if (!task) return;  // it ended before
  leave_stores(task_id);
  Outcome outcome = outcome_of(std::move(result), blobs, task->job->job->inline_results);
  report(task->lease, steady_now() - task->started, std::move(outcome));
}

Outcome RunnerLink::State::outcome_of(Bytes result, const std::vector<Blob>& blobs,
                                      bool inline_results) const {
  const std::uint64_t size_bytes = size_of_result(result, blobs);
  if (size_bytes > options_.max_result_bytes) {
    return failed(OutcomeStatus::error,
                  {"result_too_large",
                   fmt::format("the result has {} bytes; the limit is {}: write large results to a "
                               "file and return its name",
                               size_bytes, options_.max_result_bytes),
                   "",
                   {}});
  }
  try {
    return {OutcomeStatus::result, blobs_.payload_of(std::move(result), blobs, inline_results)};
  } catch (const BlobError& error) {
    return failed(OutcomeStatus::error, blob_failure(error));
  }
}

void RunnerLink::State::fail(std::uint64_t task_id, const Failure& failure) {
  if (abandoned_) return;
  const std::optional<HeldTask> task = take_started(task_id);
  if (!task) return;  // it ended before
  leave_stores(task_id);
  report(task->lease, steady_now() - task->started, failed(OutcomeStatus::error, failure));
}

std::optional<HeldTask> RunnerLink::State::take_started(std::uint64_t task_id) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(started_.begin(), started_.end(),
                                  [&](const HeldTask& held) { return held.id == task_id; });
  if (found == started_.end()) return std::nullopt;
  HeldTask task = std::move(*found);
  started_.erase(found);
  return task;
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

int RunnerLink::State::due_in_ms() {
  Time due = blobs_.next_deadline();
  {
    const std::lock_guard lock(mutex_);
    if (!gate_.empty()) due = std::min(due, gate_.since() + kGatherLines);
  }
  if (due == kNever) return -1;
  const Duration left = due - steady_now();
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
        "descriptor {} is not a link to muster-worker: start muster-worker instead", descriptor));
  }
  state_ = std::make_unique<State>(descriptor, std::move(options));
  state_->start_reader();
}

RunnerLink::~RunnerLink() { state_->end(); }

void RunnerLink::ready() { state_->write(message::Heartbeat{}); }

RunnerTask RunnerLink::next() { return state_->next(); }

void RunnerLink::finish(std::uint64_t task_id, Bytes result, const std::vector<Blob>& blobs) {
  state_->finish(task_id, std::move(result), blobs);
}

Blob RunnerLink::make_blob(std::span<const std::span<const std::byte>> parts) {
  return state_->blobs().make(parts);
}

bool RunnerLink::keeps_blobs() const { return state_->blobs().available(); }

bool RunnerLink::shares_files() const { return state_->blobs().shares_files(); }

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
