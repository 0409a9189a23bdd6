// The life of muster-runner: takes native tasks from the worker daemon, runs one after another on
// the calling thread, and gives each outcome before it starts the next task.
#pragma once

#include <muster/runner.hpp>

#include "worker/runner/plugin.hpp"

namespace muster {

// Never returns: the process ends when the link is closed. `functions` outlives the call.
[[noreturn]] void run_native_tasks(RunnerLink& link, const FunctionRegistry& functions);

}  // namespace muster
