// Starts the worker of an attach: detached from the ssh session, in the working directory, the
// environment and with the options that its configuration asks for.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "worker/attach/attach_config.hpp"

namespace muster {

// An environment that was prepared on this node (python/node/environment.py).
struct PreparedPython {
  std::string interpreter;  // "none": it was looked for a moment ago, and there is none
  std::string version;
  std::string lack;  // then: what is missing, and what to do
};
// Nothing: it is not there, not complete, its interpreter is gone, or nobody has looked for one
// lately.
std::optional<PreparedPython> read_environment(const std::string& cache, const std::string& digest);

// The path of this program.
std::string own_program();

// `control`: the listening socket. The working directory is the run folder; the worker's log goes
// to `log` there. Throws std::runtime_error.
pid_t spawn_worker(const AttachConfig& config, const std::string& cache, int control);

// The last lines of the worker's log, in one line.
std::string log_tail();

}  // namespace muster
