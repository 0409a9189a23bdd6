// How many descriptors this process may have open (RLIMIT_NOFILE): the soft limit, which is often
// 1,024, is raised to the hard one for ourselves, and the programs that we start get back the limit
// that we were started with: a program that uses select(2) breaks on larger numbers.
//
// Owner: the process. Threads: raise it before the first thread starts; the rest from any thread.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <optional>

namespace muster {

// Raises the soft limit to the hard one and returns the limit from then on. When the kernel refuses
// (it does not without a reason of its own), the limit stays as it is. Calling it again changes
// nothing.
std::uint64_t raise_descriptor_limit();

// The limits before `raise_descriptor_limit`; nothing, if it was not called or changed nothing.
const std::optional<rlimit>& original_descriptor_limit();

// For a child between fork and exec: the program gets the limits that this process was started
// with. Safe after a fork of a process with threads. Does nothing if nothing was raised.
void restore_descriptor_limit();

// Whether a descriptor that was just opened is among the last that this process may open. The
// kernel gives the lowest free number, so the number tells how many are open; what is left is for
// work that has begun.
bool is_near_descriptor_limit(int descriptor);

// Whether the error (errno) says that this process or machine has no descriptors, processes or
// memory left just now: the same call may succeed a moment later.
bool is_exhaustion(int error);

}  // namespace muster
