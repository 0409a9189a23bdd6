// What a task takes of a worker: the rule that broker and workers share (docs/protocol.md,
// "Resources"). Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

// What a worker has to give.
struct Shape {
  std::uint32_t slots = 1;
  std::uint32_t cores = 0;         // 0: one for each slot
  std::uint64_t memory_bytes = 0;  // 0: not known, which is enough for anything
  std::uint32_t gpus = 0;
};
Shape shape_of(const message::HelloWorker& hello);

// Slots that one task takes, so that cores and memory are shared out as slots are: at least 1. More
// than `shape.slots`: it never fits there.
std::uint32_t width_of(const Resources& wanted, const Shape& shape);

// Whether one task fits on a worker that runs nothing else.
bool fits(const Resources& wanted, const Shape& shape);

// Whether the job asks for anything but one slot.
bool is_demanding(const Resources& wanted);

// Whether `offered`, sorted, has all of `wanted`.
bool has_labels(const std::vector<std::string>& offered, const std::vector<std::string>& wanted);

// "1.5 GB", "512 MB": for people.
std::string describe_bytes(std::uint64_t bytes);
// "2 cores", "0.5 cores".
std::string describe_cpus(std::uint64_t milli_cpus);

}  // namespace muster
