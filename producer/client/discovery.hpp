// Which broker a program uses that names none, and where `muster up` starts one.
// Threads: any; nothing is kept. Reads the environment and the file system; waits for nothing.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace muster {

// Folders in which the user's broker may have its socket `broker`, the best first:
// $XDG_RUNTIME_DIR/muster, then /tmp/muster-UID.
std::vector<std::string> runtime_folders();

// Why `folder` is not safe to use (another's, open to others, no folder at all); empty: it is, or
// is missing.
std::string folder_complaint(const std::string& folder);

// Whether a broker of this user serves this ipc:// endpoint, as far as its files tell, or is just
// started again there after a crash.
bool broker_runs(const std::string& endpoint);
// The same, and not in the moment between a crash and the next start.
bool broker_serves(const std::string& endpoint);

// Whether somebody starts the broker there again when it crashes.
bool broker_is_kept(const std::string& endpoint);

// Locked by the process that starts the broker of an ipc:// endpoint again when it crashes.
std::string keeper_lock(const std::string& endpoint);

// Whether a process, stopped or not, holds the socket of this ipc:// endpoint.
bool somebody_listens(const std::string& endpoint);

// The endpoint of the user's broker in one of the runtime folders, if one runs. What a broker left
// that was killed is not one, and a folder that is not safe is passed over.
std::optional<std::string> running_broker();

// `given`, else default_endpoint() of <muster/producer.hpp>.
std::string endpoint_or_default(const std::string& given);

}  // namespace muster
