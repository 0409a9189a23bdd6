// The loop's side of a ThreadExecutor.
#include "worker/executors/thread_executor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <thread>
#include <unordered_set>
#include <utility>

#include "worker/agent/waiting.hpp"
#include "worker/executors/thread_executor_state.hpp"

namespace muster {
namespace {

// How often `poll` wants to look at chunks: a task that is slower than the mean foretold must hold
// up neither the results before it nor the tasks behind it.
constexpr Duration kLookInterval = std::chrono::milliseconds(1);

constexpr Duration kShutdownPatience = std::chrono::milliseconds(500);

}  // namespace

// Moves the slot's finished results to `out`. Called with the lock held.
void ThreadExecutor::State::collect(Slot& slot, std::vector<TaskFinish>& out) {
  const Window window = Window::unpack(slot.window.load(std::memory_order_acquire));
  for (; slot.collected < window.current; ++slot.collected) {
    out.push_back(std::move(slot.results[slot.collected]));
  }
}

// Takes back what the slot has not started. Called with the lock held.
void ThreadExecutor::State::reclaim(Slot& slot) {
  std::uint64_t seen = slot.window.load(std::memory_order_acquire);
  Window window;
  std::uint32_t end = 0;
  do {
    window = Window::unpack(seen);
    if (window.current + 1 >= window.end) return;
    end = std::exchange(window.end, window.current + 1);
  } while (!slot.window.compare_exchange_weak(seen, window.pack(), std::memory_order_acq_rel));
  for (std::uint32_t i = end; i-- > window.end;) queue.push_front(std::move(slot.tasks[i]));
}

// Reports the task that runs now as ended; its slot is stuck until it returns.
bool ThreadExecutor::State::abandon(Slot& slot, Window seen, OutcomeStatus status,
                                    const char* kind) {
  reclaim(slot);
  Window window = seen;
  window.end = seen.current + 1;
  std::uint64_t expected = window.pack();
  window.abandoned = true;
  if (!slot.window.compare_exchange_strong(expected, window.pack(), std::memory_order_acq_rel)) {
    return false;  // it ended meanwhile
  }
  const TaskStart& task = slot.tasks[window.current];
  slot.stop.store(true, std::memory_order_relaxed);
  const Duration busy = steady_now() - Time{slot.started.load(std::memory_order_relaxed)};
  const std::string reason =
      status == OutcomeStatus::timed_out
          ? fmt::format("ran longer than its timeout of {} ms", task.spec->timeout.count())
          : std::string("cancelled while it ran");
  collect(slot, published);
  slot.collected = window.current + 1;
  published.push_back(
      {task.lease,
       failed(status, {kind,
                       reason + "; a thread cannot be killed, so its slot stays taken until the "
                                "function returns (it may ask TaskContext::stop_requested, or use "
                                "the process executor)",
                       "",
                       {}}),
       busy});
  ++stuck;
  waker.signal();
  return true;
}

void ThreadExecutor::State::wake_threads(std::size_t tasks) {
  std::size_t wanted = tasks;
  if (mean > Duration::zero()) {
    wanted = std::min<std::size_t>(tasks,
                                   1 + tasks * static_cast<std::size_t>(mean.count()) /
                                           static_cast<std::size_t>(Duration(kChunkWork).count()));
  }
  wanted = std::min(wanted, sleeping);
  for (std::size_t i = 0; i < wanted; ++i) work.notify_one();
}

// Removes those of the leases that nobody has started and hands each to `take`.
template <typename Take>
void ThreadExecutor::State::filter_queue(const std::vector<Lease>& leases, Take&& take) {
  for (Slot& slot : slots) reclaim(slot);
  take_named(queue, leases, take);
  wake_threads(queue.size());
}

ThreadExecutor::ThreadExecutor(const FunctionRegistry& functions, std::uint32_t slots)
    : state_(std::make_shared<State>(functions, slots)) {
  state_->threads = slots;
  for (Slot& slot : state_->slots) {
    std::thread([state = state_, &slot] { state->run(slot); }).detach();
  }
}

void ThreadExecutor::start(std::vector<TaskStart>&& tasks) {
  const std::lock_guard lock(state_->mutex);
  state_->queue.insert(state_->queue.end(), std::make_move_iterator(tasks.begin()),
                       std::make_move_iterator(tasks.end()));
  state_->wake_threads(tasks.size());
  tasks.clear();
}

void ThreadExecutor::stop(const std::vector<Lease>& leases) {
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  state.filter_queue(leases, [&](const TaskStart& task) {
    state.published.push_back({task.lease, cancelled_unstarted(), Duration::zero()});
    state.waker.signal();
  });
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  for (Slot& slot : state.slots) {
    const Window window = Window::unpack(slot.window.load(std::memory_order_acquire));
    if (window.current >= window.end || window.abandoned) continue;
    if (named.count(slot.tasks[window.current].lease) == 0) continue;
    state.abandon(slot, window, OutcomeStatus::cancelled, "cancelled");
  }
}

void ThreadExecutor::recall(const std::vector<Lease>& leases) {
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  state.filter_queue(leases, [&](const TaskStart& task) {
    state.handed_back.push_back(task.lease);
    state.waker.signal();
  });
}

void ThreadExecutor::forget(const std::vector<JobName>& names) {
  const std::lock_guard lock(state_->jobs_mutex);
  for (const JobName& name : names) state_->jobs.erase(name);
}

Executor::Results ThreadExecutor::poll(Time now) {
  State& state = *state_;
  state.waker.take();
  state.blobs.tick(now);
  const std::lock_guard lock(state.mutex);
  Results results;
  for (Slot& slot : state.slots) {
    state.collect(slot, state.published);
    const Window window = Window::unpack(slot.window.load(std::memory_order_acquire));
    if (window.current >= window.end || window.abandoned) continue;
    const Time started{slot.started.load(std::memory_order_relaxed)};
    const TaskStart& task = slot.tasks[window.current];
    if (task.spec->timeout.count() > 0) {
      const Time deadline = started + task.spec->timeout;
      if (now >= deadline && state.abandon(slot, window, OutcomeStatus::timed_out, "timed_out")) {
        continue;
      }
      results.next_poll = std::min(results.next_poll, deadline);
    }
    if (window.end > 1) results.next_poll = std::min(results.next_poll, now + kLookInterval);
    if (window.current + 1 < window.end && now - started >= kLookInterval) state.reclaim(slot);
  }
  if (!state.queue.empty()) {
    results.next_poll = std::min(results.next_poll, now + kLookInterval);
    if (state.sleeping > 0) state.wake_threads(state.queue.size());
  }
  results.finished.swap(state.published);
  results.handed_back.swap(state.handed_back);
  results.stuck_slots = state.stuck;
  results.next_poll = std::min(results.next_poll, state.blobs.next_deadline());
  return results;
}

int ThreadExecutor::wake_descriptor() const { return state_->waker.descriptor(); }

ThreadExecutor::~ThreadExecutor() {
  std::unique_lock lock(state_->mutex);
  state_->ending = true;
  state_->queue.clear();
  for (Slot& slot : state_->slots) {
    state_->reclaim(slot);
    slot.stop.store(true, std::memory_order_relaxed);
  }
  state_->queue.clear();
  state_->work.notify_all();
  state_->ended.wait_for(lock, kShutdownPatience, [&] { return state_->threads == 0; });
}

}  // namespace muster
