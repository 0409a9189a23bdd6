// Drives an executor the way the worker's loop does, and waits for what it reports.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/protocol/codec.hpp"
#include "worker/agent/executor.hpp"
#include "worker/system/clock.hpp"

namespace muster {

inline constexpr std::chrono::seconds kPatience{30};

class ExecutorEnv {
 public:
  explicit ExecutorEnv(std::unique_ptr<Executor> made) : executor(std::move(made)) {}

  static Lease lease(std::uint64_t sequence) {
    return {{1, 1}, JobId{1}, TaskSequence{sequence}, Attempt{0}};
  }
  void start(std::uint64_t sequence, Function function, Bytes payload,
             std::chrono::milliseconds timeout = {}) {
    start(sequence, std::move(function), Payload{std::move(payload), 0}, timeout);
  }
  void start(std::uint64_t sequence, Function function, Payload payload,
             std::chrono::milliseconds timeout = {}) {
    JobSpec spec;
    spec.function = std::move(function);
    spec.timeout = timeout;
    std::vector<TaskStart> tasks;
    tasks.push_back(
        {lease(sequence), std::make_shared<const JobSpec>(std::move(spec)), std::move(payload)});
    executor->start(std::move(tasks));
  }

  void poll() {
    Executor::Results results = executor->poll(steady_now());
    for (message::WorkerOutput& output : results.outputs) outputs.push_back(std::move(output));
    for (TaskFinish& task : results.finished) finished.push_back(std::move(task));
    for (const Lease& named : results.handed_back) handed_back.push_back(named);
    stuck = results.stuck_slots;
    next_poll = results.next_poll;
  }

  // Polls until the condition holds.
  void wait_until(const std::function<bool()>& condition) {
    const Time deadline = steady_now() + kPatience;
    for (poll(); !condition(); poll()) {
      const Time now = steady_now();
      if (now > deadline) {
        FAIL() << finished.size() << " finished, " << handed_back.size() << " handed back, "
               << stuck << " stuck";
      }
      pollfd wake{executor->wake_descriptor(), POLLIN, 0};
      const Duration wait =
          std::clamp<Duration>(next_poll - now, Duration::zero(), std::chrono::milliseconds(100));
      ::poll(&wake, 1,
             static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(wait).count()));
    }
  }
  void wait_for(std::size_t count) {
    wait_until([&] { return finished.size() >= count; });
  }
  const TaskFinish& of(std::uint64_t sequence) {
    for (const TaskFinish& task : finished) {
      if (task.lease == lease(sequence)) return task;
    }
    ADD_FAILURE() << "no outcome of task " << sequence;
    static const TaskFinish kNone;
    return kNone;
  }
  Failure failure(std::uint64_t sequence) {
    const TaskFinish& task = of(sequence);
    EXPECT_NE(task.outcome.status, OutcomeStatus::result);
    return decode_failure(task.outcome.body.bytes);
  }

  std::unique_ptr<Executor> executor;
  std::vector<TaskFinish> finished;
  std::vector<Lease> handed_back;
  std::vector<message::WorkerOutput> outputs;
  std::uint32_t stuck = 0;
  Time next_poll = kNever;
};

}  // namespace muster
