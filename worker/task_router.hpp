// One executor out of several: routes each task to what runs its kind of function.
//
// Native tasks go to threads or runners, commands to children of their own; the agent sees to it
// that the parts share the slots (agent_output.cpp, `allowance`). Threads: as Executor.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/command_executor.hpp"
#include "worker/descriptor.hpp"
#include "worker/executor.hpp"
#include "worker/plugin.hpp"

namespace muster {

struct TaskRouterOptions {
  std::string executor;  // "thread" or "process"
  std::uint32_t slots = 1;
  std::vector<std::string> plugins;  // for the runners
  std::string node;
  std::uint64_t max_result_bytes = limits::kMaxPayloadBytes;
};

class TaskRouter final : public Executor {
 public:
  // `functions` holds the functions of `plugins`; it outlives the router.
  TaskRouter(TaskRouterOptions options, const FunctionRegistry& functions);

  void start(std::vector<TaskStart>&& tasks) override;
  void stop(const std::vector<Lease>& leases) override;
  void recall(const std::vector<Lease>& leases) override;
  Results poll(Time now) override;
  int wake_descriptor() const override { return epoll_.get(); }
  void shutdown() override;

 private:
  std::uint32_t slots_;
  std::unique_ptr<Executor> native_;
  CommandExecutor commands_;
  Descriptor epoll_;
  std::vector<TaskFinish> unsupported_;
};

}  // namespace muster
