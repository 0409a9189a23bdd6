#include "worker/system/memory_watch.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "common/protocol/resources.hpp"

namespace muster {
namespace {

// Processes of one task that are counted: more would take longer to look at than to run.
constexpr std::size_t kMostProcesses = 4096;

std::vector<pid_t> tree_of(pid_t root) {
  std::vector<pid_t> tree = {root};
  for (std::size_t i = 0; i < tree.size() && tree.size() < kMostProcesses; ++i) {
    std::error_code ignored;
    const std::string folder = fmt::format("/proc/{}/task", tree[i]);
    for (const auto& thread : std::filesystem::directory_iterator(folder, ignored)) {
      std::ifstream file(thread.path() / "children");
      for (pid_t child = 0; file >> child;) tree.push_back(child);
    }
  }
  return tree;
}

// Quick, and too much: pages that a fork shares are counted in every process.
std::uint64_t anonymous_bytes(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/statm", process));
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  std::uint64_t shared = 0;
  if (!(file >> size >> resident >> shared) || shared > resident) return 0;
  return (resident - shared) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// Its part of what it shares with others. Slow for a process of many gigabytes.
std::uint64_t proportional_bytes(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/smaps_rollup", process));
  std::string word;
  std::uint64_t total = 0;
  std::uint64_t kilobytes = 0;
  bool found = false;
  while (file >> word) {
    if (word != "Pss_Anon:" && word != "SwapPss:") continue;
    if (file >> kilobytes) total += kilobytes << 10;
    found = true;
  }
  return found ? total : anonymous_bytes(process);
}

}  // namespace

std::uint64_t memory_of_tree(pid_t root) {
  std::uint64_t total = 0;
  for (const pid_t process : tree_of(root)) total += proportional_bytes(process);
  return total;
}

void MemoryWatch::begin(pid_t process, std::uint64_t limit_bytes, Time now) {
  process_ = process;
  limit_bytes_ = limit_bytes;
  next_look_ = now + kInterval;
}

bool MemoryWatch::exceeded(Time now) {
  if (limit_bytes_ == 0 || now < next_look_) return false;
  next_look_ = now + kInterval;
  std::uint64_t quick = 0;
  for (const pid_t process : tree_of(process_)) quick += anonymous_bytes(process);
  if (quick <= limit_bytes_) return false;
  used_bytes_ = memory_of_tree(process_);
  return used_bytes_ > limit_bytes_;
}

Failure MemoryWatch::failure(const char* where) const {
  return {
      "out_of_memory",
      fmt::format("{} used {} of memory and was ended: its limit is {}; ask for more memory, or "
                  "use less",
                  where, describe_bytes(used_bytes_), describe_bytes(limit_bytes_)),
      "",
      {}};
}

std::uint64_t MemoryRule::limit_of(const Resources& wanted) const {
  if (wanted.memory_bytes != 0) return wanted.memory_bytes;
  return share_bytes * width_of(wanted, {slots, cores, 0, 0});
}

}  // namespace muster
