#include "worker/executors/task_router.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>
#include <utility>

#include "common/protocol/codec.hpp"
#include "worker/executors/process_executor.hpp"
#include "worker/executors/shared_runner_executor.hpp"
#include "worker/executors/thread_executor.hpp"
#include "worker/system/machine.hpp"

namespace muster {
namespace {

RunnerCommand with_environment(RunnerCommand command, const TaskRouterOptions& options) {
  command.environment = runner_environment(options.slots, options.cores, options.node);
  command.stores = options.stores;
  return command;
}

// Without a plug-in there is no function to run: a runner is started only for a task that asks in
// vain.
std::unique_ptr<Executor> make_native(const TaskRouterOptions& options,
                                      const FunctionRegistry& functions) {
  if (options.executor == "thread") {
    return std::make_unique<ThreadExecutor>(functions, options.slots);
  }
  return std::make_unique<ProcessExecutor>(ProcessExecutorOptions{
      options.slots,
      with_environment(native_runner(options.plugins, options.max_result_bytes), options),
      !options.plugins.empty(), options.gpus, options.memory});
}

std::unique_ptr<Executor> make_python(const TaskRouterOptions& options) {
  if (options.python.version.empty()) return nullptr;
  const bool shared = options.executor == "thread";
  RunnerCommand command = with_environment(
      python_runner(options.python, shared ? options.slots : 1, options.max_result_bytes), options);
  if (shared) {
    // Its tasks share what it sees.
    if (!options.gpus.empty()) {
      std::vector<std::uint32_t> all(options.gpus.size());
      std::iota(all.begin(), all.end(), 0U);
      command.environment.emplace_back("CUDA_VISIBLE_DEVICES", join_gpus(options.gpus, all));
    }
    return std::make_unique<SharedRunnerExecutor>(
        SharedRunnerExecutorOptions{options.slots, std::move(command)});
  }
  return std::make_unique<ProcessExecutor>(ProcessExecutorOptions{
      options.slots, std::move(command), true, options.gpus, options.memory});
}

CommandExecutorOptions command_options(const TaskRouterOptions& options) {
  CommandExecutorOptions made;
  made.slots = options.slots;
  made.node = options.node;
  made.gpus = options.gpus;
  made.memory = options.memory;
  return made;
}

template <typename Item>
void append(std::vector<Item>& items, std::vector<Item>&& more) {
  items.insert(items.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
}

void append(Executor::Results& results, Executor::Results&& more) {
  append(results.outputs, std::move(more.outputs));
  append(results.finished, std::move(more.finished));
  append(results.handed_back, std::move(more.handed_back));
  results.stuck_slots += more.stuck_slots;
  results.next_poll = std::min(results.next_poll, more.next_poll);
}

}  // namespace

RunnerCommand native_runner(const std::vector<std::string>& plugins,
                            std::uint64_t max_result_bytes) {
  std::array<char, 4096> path{};
  const ssize_t size = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  const std::string own(path.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  RunnerCommand command{{own.substr(0, own.rfind('/') + 1) + "muster-runner", "--max-result",
                         std::to_string(max_result_bytes)},
                        {}};
  for (const std::string& plugin : plugins) {
    command.argv.insert(command.argv.end(), {"--plugin", plugin});
  }
  return command;
}

TaskRouter::TaskRouter(const TaskRouterOptions& options, const FunctionRegistry& functions)
    : slots_(options.slots),
      python_version_(options.python.version),
      native_(make_native(options, functions)),
      python_(make_python(options)),
      commands_(command_options(options)),
      parts_{native_.get(), &commands_} {
  if (python_ != nullptr) parts_.push_back(python_.get());
  for (const Executor* part : parts_) watches_.watch_lasting(part->wake_descriptor(), {});
}

void TaskRouter::start(std::vector<TaskStart>&& tasks) {
  const bool all_native = std::all_of(tasks.begin(), tasks.end(), [](const TaskStart& task) {
    return task.spec->function.kind == FunctionKind::native;
  });
  if (all_native) {
    native_->start(std::move(tasks));
    return;
  }
  std::vector<TaskStart> native;
  std::vector<TaskStart> commands;
  std::vector<TaskStart> python;
  for (TaskStart& task : tasks) {
    switch (task.spec->function.kind) {
      case FunctionKind::native:
        native.push_back(std::move(task));
        break;
      case FunctionKind::command:
        commands.push_back(std::move(task));
        break;
      case FunctionKind::python:
        if (python_ != nullptr && task.spec->function.python == python_version_) {
          python.push_back(std::move(task));
        } else {
          refuse_python(task);
        }
        break;
    }
  }
  tasks.clear();
  if (!native.empty()) native_->start(std::move(native));
  if (!commands.empty()) commands_.start(std::move(commands));
  if (!python.empty()) python_->start(std::move(python));
}

// The broker does not send these here, unless it knew less when it did.
void TaskRouter::refuse_python(const TaskStart& task) {
  Failure failure;
  if (python_ == nullptr) {
    failure = {"unsupported",
               "this worker runs no Python functions; start it with --python PATH, an interpreter "
               "that has the package muster",
               "",
               {}};
  } else {
    failure = {"wrong_interpreter",
               fmt::format("the job needs Python {}, this worker has Python {}; start it with "
                           "--python PATH, an interpreter of the other version",
                           task.spec->function.python, python_version_),
               "",
               {}};
  }
  refused_.push_back({task.lease, failed(OutcomeStatus::error, failure), Duration::zero()});
}

void TaskRouter::stop(const std::vector<Lease>& leases) {
  for (Executor* part : parts_) part->stop(leases);
}

void TaskRouter::recall(const std::vector<Lease>& leases) {
  for (Executor* part : parts_) part->recall(leases);
}

void TaskRouter::forget(const std::vector<JobName>& jobs) {
  for (Executor* part : parts_) part->forget(jobs);
}

Executor::Results TaskRouter::poll(Time now) {
  Results results = native_->poll(now);
  if (python_ != nullptr) append(results, python_->poll(now));
  commands_.set_slots(slots_ - std::min(slots_, results.stuck_slots));
  append(results, commands_.poll(now));
  append(results.finished, std::exchange(refused_, {}));
  return results;
}

}  // namespace muster
