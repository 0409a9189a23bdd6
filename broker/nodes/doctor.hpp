// `muster doctor` and `muster clean`: one look at machines that are, or are to be, nodes. Both
// block, report to `out` for people, and return the exit code of the process.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "broker/hosts/host.hpp"

namespace muster {

// Checks, step by step, whether each host can be a node; says how to mend what is wrong. Changes
// nothing there. 1: a host has a problem.
int run_doctor(const std::vector<Host>& hosts, const std::string& bundle, std::ostream& out);

// Removes ~/.cache/muster of each host. 1: a worker lives there and `force` is false (else it is
// ended first), or the host cannot be reached.
int run_clean(const std::vector<Host>& hosts, bool force, std::ostream& out);

// The command line of both: muster-broker doctor|clean [--force] FILE.toml|HOST... 2: it is wrong.
int run_node_tool(int argument_count, char** arguments);

}  // namespace muster
