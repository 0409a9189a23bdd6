// Starts child processes: in a session of their own, tied to the life of this process.
//
// The child shares this process's memory until it executes (as with vfork), so starting one costs
// the same however much memory the daemon holds. Threads: call it from the thread that outlives
// the children (the loop's): they are killed when that thread ends.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/descriptor.hpp"

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
};

Spawned spawn(const SpawnRequest& request);

// How a process ended.
struct ExitStatus {
  int status = 0;  // 0-255; -1 when a signal ended it
  int signal = 0;
};
// Reaps the process. Precondition: `exit_watch` is readable.
ExitStatus reap(const Spawned& child);
// "exited with status 3", "killed by signal 11 (Segmentation fault)".
std::string describe(ExitStatus status);

// A pipe whose reading end never blocks.
struct Pipe {
  Descriptor read;
  Descriptor write;
};
Pipe make_pipe();

// The last lines of a text: at most 20, at most 4 KiB.
std::string last_lines(std::string_view text);

}  // namespace muster
