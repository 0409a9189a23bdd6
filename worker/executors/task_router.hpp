// One executor out of several: routes each task to what runs its kind of function.
//
// Native tasks go to threads or runners, python tasks to runners, commands to children of their
// own; the agent sees to it that the parts share the slots (executor_load.cpp, `allowance`).
// Threads: as Executor.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/agent/executor.hpp"
#include "worker/executors/command_executor.hpp"
#include "worker/executors/python.hpp"
#include "worker/runner/plugin.hpp"
#include "worker/system/watch_set.hpp"

namespace muster {

struct TaskRouterOptions {
  std::string executor;  // "thread" or "process"
  std::uint32_t slots = 1;
  std::vector<std::string> plugins;  // for the runners
  std::string node;
  std::uint64_t max_result_bytes = limits::kMaxResultBytes;
  Python python = {};
  std::uint32_t cores = 1;             // that the slots share
  std::vector<std::string> gpus = {};  // as CUDA_VISIBLE_DEVICES names them
  MemoryRule memory = {};
  StoreRelay* stores = nullptr;  // outlives the router; null: tasks have no stores
};

// Starts muster-runner, from the folder of this program, with these plug-ins.
RunnerCommand native_runner(const std::vector<std::string>& plugins,
                            std::uint64_t max_result_bytes);

class TaskRouter final : public Executor {
 public:
  // `functions` holds the functions of `plugins`; it outlives the router.
  TaskRouter(const TaskRouterOptions& options, const FunctionRegistry& functions);

  void start(std::vector<TaskStart>&& tasks) override;
  void stop(const std::vector<Lease>& leases) override;
  void recall(const std::vector<Lease>& leases) override;
  void forget(const std::vector<JobName>& jobs) override;
  Results poll(Time now) override;
  int wake_descriptor() const override { return watches_.descriptor(); }

 private:
  void refuse_python(const TaskStart& task);

  std::uint32_t slots_;
  std::string python_version_;
  std::unique_ptr<Executor> native_;
  std::unique_ptr<Executor> python_;  // null: none
  CommandExecutor commands_;
  std::vector<Executor*> parts_;
  WatchSet watches_;
  std::vector<TaskFinish> refused_;
};

}  // namespace muster
