// `muster doctor` and `muster clean`: what the broker's program does for one host after the other.
#pragma once

#include <string>
#include <vector>

namespace muster {

// Becomes `muster-broker TOOL WORDS…`; returns only by throwing muster::Error unusable or
// std::runtime_error.
[[noreturn]] void run_node_tool(const std::string& tool, const std::vector<std::string>& words);

}  // namespace muster
