// The inside of a ThreadExecutor: what its two source files share. Owner: the executor, and each of
// its threads. Threads: each member says whose it is.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "worker/blobs/task_blobs.hpp"
#include "worker/executors/thread_executor.hpp"
#include "worker/runner/shipped.hpp"
#include "worker/system/clock.hpp"
#include "worker/system/wake_event.hpp"

namespace muster {

// What of its chunk a slot runs: task `current`, then those before `end`; nothing when both are
// equal. The slot's thread moves `current`, the loop lowers `end` or abandons `current`; each with
// one compare-and-swap, so that every task has one owner.
struct ThreadExecutor::Window {
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

struct ThreadExecutor::Slot {
  std::vector<TaskStart> tasks;
  std::vector<TaskFinish> results;  // of the tasks before `current`
  std::size_t collected = 0;        // results taken by the loop; guarded by State::mutex
  std::atomic<std::uint64_t> window{0};
  std::atomic<std::int64_t> started{0};  // when `current` started
  std::atomic<bool> stop{false};
};

struct ThreadExecutor::State {
  // A thread takes at most this much work at once: a lock per chunk then costs under 1 %, and what
  // stands behind a task waits no longer than this.
  static constexpr Duration kChunkWork = std::chrono::microseconds(20);

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
  TaskBlobs blobs{BlobHome::from_environment(), kResultPatience};
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

}  // namespace muster
