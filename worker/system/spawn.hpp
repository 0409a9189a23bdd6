// Starts child processes: in a session of their own, tied to the life of this process.
//
// The child shares this process's memory until it executes (as with vfork), so starting one costs
// the same however much memory the daemon holds. `spawn` may return a moment before the child has
// closed its copies of our descriptors, so a pipe or a process descriptor that we close may stay
// open for that long: see worker/system/watch_set.hpp. Threads: call it from the thread that
// outlives the children (the loop's): they are killed when that thread ends.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/system/descriptor.hpp"
#include "common/system/process_end.hpp"

namespace muster {

struct SpawnRequest {
  std::vector<std::string> argv;                                 // argv[0]: a path or a name
  std::vector<std::pair<std::string, std::string>> environment;  // added to our own
  std::string directory;                                         // empty: ours
  int input = -1;                                                // becomes descriptor 0
  int output = -1;                                               // 1
  int error_output = -1;                                         // 2
  int link = -1;                                                 // 3, unless it is -1
};

struct Spawned {
  pid_t pid = -1;
  Descriptor exit_watch;  // a pidfd: readable once the process ended
  std::string failure;    // why it could not be started and what to do; empty: it runs
  // It failed because descriptors, processes or memory were used up: it may succeed later.
  bool exhausted = false;
};

// The program gets the limit of descriptors that this process was started with.
Spawned spawn(const SpawnRequest& request);

// Ends the child, which is not reaped yet, and the processes of its group, and reaps it. Returns
// how it ended; nothing when the kernel still holds the killed process after a second.
std::optional<ExitStatus> kill_group(pid_t child);

// A pipe whose reading end never blocks.
struct Pipe {
  Descriptor read;
  Descriptor write;
};
Pipe make_pipe();

// The last lines of a text: at most 20, at most 4 KiB.
std::string last_lines(std::string_view text);

}  // namespace muster
