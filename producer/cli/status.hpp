// `muster status`: asks a broker that is there for its status; never starts a pool.
#pragma once

#include <string>

namespace muster {

// Prints a table, or the JSON, on standard output and returns the exit status. Throws Error (the
// broker does not answer) and std::runtime_error (there is no endpoint to ask).
int print_status(const std::string& endpoint, bool json);

}  // namespace muster
