// `muster keep-broker`, which `muster up` leaves behind beside its broker: it starts the broker,
// and starts it again after a crash.
#pragma once

#include <string>
#include <vector>

namespace muster {

// Blocks until the broker ended as it was told to, could not start, or crashed ten times in a row
// within ten seconds of its start. `endpoint` is the broker's; `argv` its program and options, less
// --lifeline. SIGTERM and SIGINT end the broker, too. What it writes goes to standard error.
// Returns the exit status: 0, or 2 when there is no broker left that anybody ended. Throws
// std::runtime_error when another process keeps a broker there.
int keep_broker(const std::string& endpoint, std::vector<std::string> argv);

}  // namespace muster
