// What this machine lets the worker use: cores, memory, accelerators; and how the worker takes
// less.
//
// Called by main() before any thread or child starts. Reads files of the kernel; blocks for nothing
// else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace muster {

// Where the kernel tells of it; tests name folders of their own.
struct MachineFiles {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
  std::string dev = "/dev";
};

// Cores that this process may use: its affinity, or the CPU quota of its cgroups (version 1 or 2),
// rounded up, if that is less.
std::uint32_t usable_cores(const MachineFiles& files = {});

// Memory of the machine, or the limit of our cgroups if that is less; 0: not known.
std::uint64_t usable_memory(const MachineFiles& files = {});

// Keeps this process, and all that it starts, on so many of the cores that it may use.
void limit_cores(std::uint32_t most);

// Accelerators as CUDA_VISIBLE_DEVICES names them. `asked`: a number of them, a list ("0,2" or
// UUIDs; "3," is one), "none", or empty: those of our own CUDA_VISIBLE_DEVICES, or else the devices
// /dev/nvidia0 and so on. Throws std::runtime_error for what is none of these.
std::vector<std::string> find_gpus(const std::string& asked, const MachineFiles& files = {});

// The names of some of them, as CUDA_VISIBLE_DEVICES wants them: "0,2".
std::string join_gpus(const std::vector<std::string>& names,
                      const std::vector<std::uint32_t>& chosen);

// Makes the kernel end this process, when memory runs out, before others of ours.
void raise_oom_score(int process);

}  // namespace muster
