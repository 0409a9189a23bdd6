// The broker that `muster up` leaves running, and the process that starts it again after a crash:
// a session of their own, with a log file beside the broker's socket.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace muster {

// Where the user's broker is, or is to be: `given`, else what MUSTER_BROKER names, else the one
// that runs, else in the first runtime folder. Throws std::runtime_error when that folder is not
// safe.
std::string place_of_broker(const std::string& given);

// Starts a broker at `endpoint` unless one runs there; true: this call did. If
// ~/.config/muster (or XDG_CONFIG_HOME's) has both broker.key and authorized_workers, it has these,
// and workers with keys of their own may come through tunnels. Blocks until it listens. Throws
// std::runtime_error with its last words, or muster::Error unusable (no such program).
bool start_broker(const std::string& endpoint);

// The log file of a broker at `endpoint`.
std::string log_of_broker(const std::string& endpoint);

// Removes what a broker at `endpoint` has left: its log and, where it was the user's own, the
// folder. No effect while one runs.
void clean_up_after_broker(const std::string& endpoint);

}  // namespace muster
