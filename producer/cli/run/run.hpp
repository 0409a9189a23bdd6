// `muster run`: commands over the pool. The exit status is docs/run.md's, "Exit status".
#pragma once

#include "producer/cli/run/run_options.hpp"

namespace muster {

// Runs to the end and returns the exit status. Blocks. Throws Error (the pool cannot be used) and
// std::runtime_error (a file cannot be read or written).
int run_commands(const RunOptions& options);

}  // namespace muster
