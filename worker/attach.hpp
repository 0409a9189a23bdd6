// `muster-worker attach`: what a broker runs on a node over ssh. It finds the pool's worker on this
// machine or starts one, hands it the end of the tunnel, and stays for as long as the ssh session
// does.
//
//   standard input   one line of JSON (attach_config.hpp), then nothing, or "end SECONDS\n"
//   standard output  "ready PID", or "missing WHAT" before exit code 127
//   standard error   "muster: ..." lines about what happens, and the worker's log
#pragma once

namespace muster {

enum AttachExit : int {
  kAttachEnded = 0,       // the worker ended as it was told to, or the input ended
  kAttachUnusable = 2,    // no worker can run here; standard error says why
  kAttachLostWorker = 3,  // the worker ended by itself or was killed
  kAttachTaken = 5,       // another attach took the worker over
  kAttachMissing = 127,   // something must be uploaded first: standard output says what
};

// Blocks until it is over; returns the exit code of the process.
int run_attach();

}  // namespace muster
