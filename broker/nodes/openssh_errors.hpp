// What the text that ssh(1) leaves means for a node. Pure.
#pragma once

#include <string>

#include "broker/nodes/remote.hpp"

namespace muster {

// The error of a connection to `target` ("user@host") that ssh could not make; `complaint` is its
// standard error, in the C locale.
NodeError openssh_error(const std::string& target, const std::string& complaint);

// The last lines of a text in one line.
std::string one_line(const std::string& text);

}  // namespace muster
