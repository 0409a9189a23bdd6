// How child processes end: the one place that reaps them, and never waits without a bound. A loop
// that waits for a child that still runs serves nobody else, however sure it is of the end.
//
// Threads: any; each child is reaped by one of them.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "common/time.hpp"

namespace muster {

// How a process ended.
struct ExitStatus {
  int status = 0;  // 0-255; -1 when a signal ended it, or when nobody can tell any more
  int signal = 0;
};
// "exited with status 3", "killed by signal 11 (Segmentation fault)".
std::string describe(ExitStatus status);

// Reaps our child if it has ended; nothing while it runs. Never blocks. A child that somebody else
// reaped has ended, with a status that nobody knows.
std::optional<ExitStatus> reap(pid_t process);

// Whether our child has ended and waits to be reaped: its number, and the one of its group, are not
// given to another process before that. Never blocks.
bool has_ended(pid_t process);

// Waits until our child has ended, at most so long, and reaps it. For a child that was just killed:
// it ends at once, unless the kernel holds it (a dead disk); then nothing is returned.
std::optional<ExitStatus> await_end(pid_t process, Duration patience);

}  // namespace muster
