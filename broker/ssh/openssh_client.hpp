// How the system's ssh(1) is called, and what the text that it leaves means for a node.
// Threads: any.
#pragma once

#include <string>
#include <vector>

#include "broker/hosts/host.hpp"
#include "broker/ssh/remote.hpp"

namespace muster {

// `ssh` with the options that hold for `host` and for every machine on the way to it: it asks
// nothing, and accepts no host key that is not known.
std::vector<std::string> openssh_client(const Host& host);

// The error of a connection to `target` ("user@host") that ssh could not make; `complaint` is its
// standard error, in the C locale.
NodeError openssh_error(const std::string& target, const std::string& complaint);

// The last lines of a text in one line.
std::string one_line(const std::string& text);

}  // namespace muster
