#include "worker/runner.hpp"

#include <atomic>
#include <cstdio>
#include <utility>

#include "common/codec.hpp"

namespace muster {

void run_native_tasks(RunnerLink& link, const FunctionRegistry& functions) {
  const std::atomic<bool> stop{false};  // a runner is killed instead
  link.ready();
  while (true) {
    RunnerTask task = link.next();
    const std::string& name = task.job->name;
    const RawFunction* function = functions.find(name);
    Outcome outcome =
        function == nullptr
            ? functions.unknown_function(name)
            : call_function(name, *function, {std::move(task.payload), 0},
                            TaskContext(task.attempt, stop), functions.max_result_bytes());
    std::fflush(stdout);  // the task's, not the next one's
    if (outcome.status == OutcomeStatus::result) {
      link.finish(task.id, std::move(outcome.body.bytes));
    } else {
      const Failure failure = decode_failure(outcome.body.bytes);
      link.fail(task.id, failure.kind, failure.message, failure.traceback, failure.extra);
    }
  }
}

}  // namespace muster
