// Watches how much memory one task's processes use, against a limit.
//
// Owned by an executor, on the loop's thread; one per slot. It looks at the processes every
// kInterval: a task may go beyond its limit for that long.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

// Memory of its own (not of mapped files) that a process and its descendants use; 0: it is gone.
std::uint64_t memory_of_tree(pid_t root);

class MemoryWatch {
 public:
  static constexpr Duration kInterval = std::chrono::milliseconds(50);

  // A task starts in this process; limit 0: none.
  void begin(pid_t process, std::uint64_t limit_bytes, Time now);
  void end() { limit_bytes_ = 0; }
  // Whether the limit was found to be exceeded. Looks when it is time to.
  bool exceeded(Time now);
  // When to ask again.
  Time next_look() const { return limit_bytes_ == 0 ? kNever : next_look_; }
  // Of a task that was ended for that. `where`: what is counted beside the task.
  Failure failure(const char* where) const;

 private:
  pid_t process_ = -1;
  std::uint64_t limit_bytes_ = 0;
  std::uint64_t used_bytes_ = 0;
  Time next_look_ = kNever;
};

// What a worker lets its tasks take of its memory.
struct MemoryRule {
  std::uint64_t share_bytes = 0;  // limit per slot of tasks that name none; 0: no limit
  std::uint32_t slots = 1;        // the worker's, cores and memory
  std::uint32_t cores = 1;
  // The limit of a task; 0: none.
  std::uint64_t limit_of(const Resources& wanted) const;
};

}  // namespace muster
