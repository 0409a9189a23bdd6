// `muster-worker attach`: what a broker runs on a node over ssh. It finds the pool's worker on this
// machine or starts one, hands it the end of the tunnel, and stays for as long as the ssh session
// does.
//
//   standard input   one line of JSON (attach_config.hpp), then nothing, or "end SECONDS\n"
//   standard output  "ready PID", or "missing WHAT" before exit code 127
//   standard error   "muster: ..." lines about what happens, and the worker's log
#pragma once

namespace muster {

// Blocks until it is over; returns the exit code of the process (common/system/attach_exit.hpp).
int run_attach();

}  // namespace muster
