#include "worker/thread_executor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "common/codec.hpp"
#include "worker/clock.hpp"
#include "worker/shipped.hpp"
#include "worker/task_blobs.hpp"
#include "worker/waiting.hpp"
#include "worker/wake_event.hpp"

namespace muster {
namespace {

// A thread takes at most this much work at once: a lock per chunk then costs under 1 %, and what
// stands behind a task waits no longer than this.
constexpr Duration kChunkWork = std::chrono::microseconds(20);

// While there is more to run the loop is woken at most this often: it then sends full batches.
constexpr Duration kWakeInterval = std::chrono::microseconds(100);

// How often `poll` wants to look at chunks: a task that is slower than the mean foretold must hold
// up neither the results before it nor the tasks behind it.
constexpr Duration kLookInterval = std::chrono::milliseconds(1);

constexpr Duration kShutdownPatience = std::chrono::milliseconds(500);

// What of its chunk a slot runs: task `current`, then those before `end`; nothing when both are
// equal. The slot's thread moves `current`, the loop lowers `end` or abandons `current`; each with
// one compare-and-swap, so that every task has one owner.
struct Window {
  std::uint32_t current = 0;
  std::uint32_t end = 0;
  bool abandoned = false;  // nobody waits for `current` any more

  static Window unpack(std::uint64_t word) {
    return {static_cast<std::uint32_t>(word & 0x7fffffff),
            static_cast<std::uint32_t>(word >> 31 & 0x7fffffff), (word >> 63) != 0};
  }
  std::uint64_t pack() const {
    return std::uint64_t{abandoned} << 63 | std::uint64_t{end} << 31 | current;
  }
};

}  // namespace

struct ThreadExecutor::Slot {
  std::vector<TaskStart> tasks;
  std::vector<TaskFinish> results;  // of the tasks before `current`
  std::size_t collected = 0;        // results taken by the loop; guarded by State::mutex
  std::atomic<std::uint64_t> window{0};
  std::atomic<std::int64_t> started{0};  // when `current` started
  std::atomic<bool> stop{false};
};

struct ThreadExecutor::State {
  State(const FunctionRegistry& registry, std::uint32_t slot_count)
      : functions(registry), libraries(registry), slots(slot_count) {}

  void run(Slot& slot);
  void run_chunk(Slot& slot);
  ShippedLibraries::Found function_of(const TaskStart& task);
  Outcome run_task(const TaskStart& task, const ShippedLibraries::Found& found,
                   const std::atomic<bool>& stop);
  bool take_chunk(Slot& slot);
  void publish(Slot& slot);
  void collect(Slot& slot, std::vector<TaskFinish>& out);
  bool abandon(Slot& slot, Window seen, OutcomeStatus status, const char* kind);
  void reclaim(Slot& slot);
  void wake_threads(std::size_t tasks);
  template <typename Take>
  void filter_queue(const std::vector<Lease>& leases, Take&& take);

  struct LoadedJob {
    std::shared_ptr<const JobSpec> spec;
    ShippedLibraries::Found found;
  };

  const FunctionRegistry& functions;
  ShippedLibraries libraries;
  TaskBlobs blobs{BlobHome::from_environment()};
  const BlobMaker make_blob = [this](std::span<const std::byte> content) {
    return blobs.make({&content, 1});
  };
  std::mutex jobs_mutex;
  std::unordered_map<JobName, LoadedJob> jobs;  // that brought libraries

  WakeEvent waker;
  std::mutex mutex;  // guards what follows, each slot's chunk while it is idle, and `collected`
  std::condition_variable work;
  std::condition_variable ended;
  std::deque<TaskStart> queue;
  std::vector<TaskFinish> published;
  std::vector<Lease> handed_back;
  std::vector<Slot> slots;
  Duration mean{};  // of a task's busy time; zero: not known
  Time last_wake{};
  std::size_t sleeping = 0;
  std::size_t threads = 0;
  std::uint32_t stuck = 0;
  bool ending = false;
};

// --- The slots' threads -------------------------------------------------------------------------

void ThreadExecutor::State::run(Slot& slot) {
  std::unique_lock lock(mutex);
  while (!ending) {
    if (!take_chunk(slot)) {
      ++sleeping;
      work.wait(lock);
      --sleeping;
      continue;
    }
    lock.unlock();
    run_chunk(slot);
    lock.lock();
    publish(slot);
  }
  --threads;
  ended.notify_all();
}

bool ThreadExecutor::State::take_chunk(Slot& slot) {
  if (queue.empty()) return false;
  std::size_t count = 1;
  if (mean > Duration::zero()) {
    const auto fitting = static_cast<std::size_t>(kChunkWork / mean);
    count = std::clamp<std::size_t>(fitting, 1, (queue.size() + slots.size() - 1) / slots.size());
  }
  const auto end = queue.begin() + static_cast<std::ptrdiff_t>(count);
  slot.tasks.assign(std::make_move_iterator(queue.begin()), std::make_move_iterator(end));
  queue.erase(queue.begin(), end);
  slot.results.resize(count);
  slot.collected = 0;
  slot.stop.store(false, std::memory_order_relaxed);
  slot.started.store(steady_now().count(), std::memory_order_relaxed);
  slot.window.store(Window{0, static_cast<std::uint32_t>(count), false}.pack(),
                    std::memory_order_release);
  return true;
}

// A job may have brought libraries with its functions.
ShippedLibraries::Found ThreadExecutor::State::function_of(const TaskStart& task) {
  const Function& function = task.spec->function;
  if (function.body.bytes.empty()) return libraries.find(function.name);
  const std::lock_guard lock(jobs_mutex);
  LoadedJob& job = jobs[task.lease.job_name()];
  if (job.spec == task.spec) return job.found;
  job.spec = task.spec;
  job.found = {};
  auto opened = blobs.unpack(function.body, "function", steady_now());
  if (const auto* payload = std::get_if<OpenPayload>(&opened)) {
    job.found = libraries.find(function.name, *payload);
  } else {
    job.found.failure = std::get<Failure>(opened);
  }
  return job.found;
}

Outcome ThreadExecutor::State::run_task(const TaskStart& task, const ShippedLibraries::Found& found,
                                        const std::atomic<bool>& stop) {
  if (found.function == nullptr) return failed(OutcomeStatus::error, *found.failure);
  OpenPayload arguments;
  if (task.payload.blobs == 0 && task.payload.unpacked_bytes == 0) {
    arguments.body = task.payload.bytes;
  } else {
    auto opened = blobs.unpack(task.payload, "payload", steady_now());
    if (const auto* failure = std::get_if<Failure>(&opened)) {
      return failed(OutcomeStatus::error, *failure);
    }
    arguments = std::move(std::get<OpenPayload>(opened));
  }
  CallResult result = call_function({task.spec->function.name, *found.function, arguments.body,
                                     arguments.blobs, value(task.lease.attempt), stop},
                                    make_blob, functions.max_result_bytes());
  if (result.failure) return failed(OutcomeStatus::error, *result.failure);
  try {
    return {OutcomeStatus::result, blobs.payload_of(std::move(result.body), result.blobs)};
  } catch (const BlobError& error) {
    return failed(OutcomeStatus::error, blob_failure(error));
  }
}

void ThreadExecutor::State::run_chunk(Slot& slot) {
  const JobSpec* spec = nullptr;  // kept alive by the chunk's tasks
  ShippedLibraries::Found found;
  Window window = Window::unpack(slot.window.load(std::memory_order_relaxed));
  Time started{slot.started.load(std::memory_order_relaxed)};
  while (window.current < window.end) {
    const TaskStart& task = slot.tasks[window.current];
    if (task.spec.get() != spec) {
      spec = task.spec.get();
      found = function_of(task);
    }
    TaskFinish& result = slot.results[window.current];
    result.lease = task.lease;
    result.outcome = run_task(task, found, slot.stop);
    const Time now = steady_now();
    result.busy = now - started;
    started = now;
    slot.started.store(now.count(), std::memory_order_relaxed);
    std::uint64_t seen = slot.window.load(std::memory_order_relaxed);
    do {
      window = Window::unpack(seen);
      if (window.abandoned) {  // `publish` gives the slot back
        discard_result(*blobs.home(), result.outcome.body);
        return;
      }
      ++window.current;
    } while (!slot.window.compare_exchange_weak(seen, window.pack(), std::memory_order_acq_rel));
  }
}

// Called with the lock held, when the slot's chunk is over.
void ThreadExecutor::State::publish(Slot& slot) {
  const Window window = Window::unpack(slot.window.load(std::memory_order_acquire));
  if (window.abandoned) {
    --stuck;
    slot.window.store(0, std::memory_order_release);
    slot.tasks.clear();
    waker.signal();  // the slot is free again
    return;
  }
  Duration busy{};
  for (std::size_t i = 0; i < window.end; ++i) busy += slot.results[i].busy;
  if (window.end > 0) {
    const Duration sample = std::max(busy / window.end, Duration{1});
    mean = mean == Duration::zero() ? sample : mean + (sample - mean) / 4;
    mean = std::max(mean, Duration{1});
  }
  collect(slot, published);
  slot.window.store(0, std::memory_order_release);
  slot.tasks.clear();
  const Time now{slot.started.load(std::memory_order_relaxed)};
  if (!queue.empty() && now - last_wake < kWakeInterval) return;
  last_wake = now;
  waker.signal();
}

// --- The loop's side ----------------------------------------------------------------------------

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
