#include "worker/task_router.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/codec.hpp"
#include "worker/process_executor.hpp"
#include "worker/thread_executor.hpp"

namespace muster {
namespace {

std::unique_ptr<Executor> make_native(TaskRouterOptions options,
                                      const FunctionRegistry& functions) {
  if (options.executor == "thread") {
    return std::make_unique<ThreadExecutor>(functions, options.slots);
  }
  return std::make_unique<ProcessExecutor>(ProcessExecutorOptions{
      options.slots, std::move(options.plugins), runner_beside_daemon(), options.max_result_bytes});
}

void append(Executor::Results& results, Executor::Results&& more) {
  results.finished.insert(results.finished.end(), std::make_move_iterator(more.finished.begin()),
                          std::make_move_iterator(more.finished.end()));
  results.handed_back.insert(results.handed_back.end(), more.handed_back.begin(),
                             more.handed_back.end());
  results.next_poll = std::min(results.next_poll, more.next_poll);
}

}  // namespace

TaskRouter::TaskRouter(TaskRouterOptions options, const FunctionRegistry& functions)
    : slots_(options.slots),
      native_(make_native(options, functions)),
      commands_({options.slots, options.node}),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  for (const Executor* part : {native_.get(), static_cast<Executor*>(&commands_)}) {
    epoll_event event{EPOLLIN, {}};
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, part->wake_descriptor(), &event);
  }
}

void TaskRouter::start(std::vector<TaskStart>&& tasks) {
  const bool all_native = std::all_of(tasks.begin(), tasks.end(), [](const TaskStart& task) {
    return task.spec->function.kind == FunctionKind::native;
  });
  if (all_native) {
    native_->start(std::move(tasks));
    return;
  }
  std::vector<TaskStart> commands;
  std::vector<TaskStart> native;
  for (TaskStart& task : tasks) {
    switch (task.spec->function.kind) {
      case FunctionKind::native:
        native.push_back(std::move(task));
        break;
      case FunctionKind::command:
        commands.push_back(std::move(task));
        break;
      case FunctionKind::python:
        unsupported_.push_back(
            {task.lease,
             failed(OutcomeStatus::error,
                    {"unsupported", "this version's workers do not run Python functions", "", {}}),
             Duration::zero()});
        break;
    }
  }
  tasks.clear();
  if (!native.empty()) native_->start(std::move(native));
  if (!commands.empty()) commands_.start(std::move(commands));
}

void TaskRouter::stop(const std::vector<Lease>& leases) {
  native_->stop(leases);
  commands_.stop(leases);
}

void TaskRouter::recall(const std::vector<Lease>& leases) {
  native_->recall(leases);
  commands_.recall(leases);
}

Executor::Results TaskRouter::poll(Time now) {
  Results results = native_->poll(now);
  commands_.set_slots(slots_ - results.stuck_slots);
  append(results, commands_.poll(now));
  results.finished.insert(results.finished.end(), std::make_move_iterator(unsupported_.begin()),
                          std::make_move_iterator(unsupported_.end()));
  unsupported_.clear();
  return results;
}

void TaskRouter::shutdown() {
  native_->shutdown();
  commands_.shutdown();
}

}  // namespace muster
