// What the slots' threads of a ThreadExecutor do.
#include <algorithm>
#include <iterator>
#include <utility>

#include "common/protocol/codec.hpp"
#include "worker/executors/thread_executor_state.hpp"

namespace muster {
namespace {

// While there is more to run the loop is woken at most this often: it then sends full batches.
constexpr Duration kWakeInterval = std::chrono::microseconds(100);

}  // namespace

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
    return {OutcomeStatus::result,
            blobs.payload_of(std::move(result.body), result.blobs, task.spec->inline_results)};
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

}  // namespace muster
