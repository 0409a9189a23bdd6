#include "worker/runner/runner.hpp"

#include <atomic>
#include <cstdio>
#include <utility>

#include "worker/runner/shipped.hpp"

namespace muster {

void run_native_tasks(RunnerLink& link, const FunctionRegistry& functions) {
  const std::atomic<bool> stop{false};  // a runner is killed instead
  const BlobMaker make_blob = [&](std::span<const std::byte> content) {
    return link.make_blob({&content, 1});
  };
  ShippedLibraries libraries(functions);
  link.ready();
  while (true) {
    RunnerTask task = link.next();
    const RunnerJob& job = *task.job;
    const ShippedLibraries::Found found = job.blobs.empty()
                                              ? libraries.find(job.name)
                                              : libraries.find(job.name, {job.body, job.blobs});
    CallResult result;
    if (found.function == nullptr) {
      result.failure = found.failure;
    } else {
      result =
          call_function({job.name, *found.function, task.payload, task.blobs, task.attempt, stop},
                        make_blob, functions.max_result_bytes());
    }
    std::fflush(stdout);  // the task's, not the next one's
    if (result.failure) {
      const Failure& failure = *result.failure;
      link.fail(task.id, failure.kind, failure.message, failure.traceback, failure.extra);
    } else {
      link.finish(task.id, std::move(result.body), result.blobs);
    }
  }
}

}  // namespace muster
