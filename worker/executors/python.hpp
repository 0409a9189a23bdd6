// The Python interpreter of a worker: which one runs python functions, and how runners start.
//
// Called by main() before any task runs, on the loop's thread.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "worker/executors/runner_process.hpp"

namespace muster {

struct Python {
  std::string interpreter;  // a path, or a name to look up in PATH
  std::string version;      // "3.11"; empty: this worker runs no python functions
};

// The interpreter cannot be used. `what()` says why and what to do.
class PythonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// `asked`: an interpreter, "none", or empty for the python3 of PATH if that one can run tasks.
// `version`: taken at its word when not empty. Starts the interpreter otherwise, and waits up to 10
// seconds for it. Throws PythonError when what was asked for cannot run tasks.
Python find_python(const std::string& asked, const std::string& version);

// What runners find in their environment: how many threads numeric libraries may start when every
// slot does so, unless our own environment says it already.
std::vector<std::pair<std::string, std::string>> runner_environment(std::uint32_t slots,
                                                                    std::uint32_t cores,
                                                                    const std::string& node);

// A runner of python functions on so many threads.
RunnerCommand python_runner(const Python& python, std::uint32_t threads,
                            std::uint64_t max_result_bytes);

}  // namespace muster
