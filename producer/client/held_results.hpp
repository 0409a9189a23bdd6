// How many bytes of one job's results its program has received and not consumed, and when the
// broker is to hear of it: in steps, so that results which are consumed at once cost no message.
// Pure. Owner and threads: a Stream or a Channel, under its mutex.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "common/protocol/limits.hpp"

namespace muster {

class HeldResults {
 public:
  // Some arrived. Returns what to say now (Client::hold_results); nothing: the broker knows enough.
  std::optional<std::uint64_t> add(std::uint64_t bytes) { return change(bytes_ + bytes); }
  // Some were consumed; no more than there are.
  std::optional<std::uint64_t> remove(std::uint64_t bytes) {
    return change(bytes_ - std::min(bytes, bytes_));
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::optional<std::uint64_t> change(std::uint64_t bytes) {
    bytes_ = bytes;
    const std::uint64_t worth = bytes < limits::kHeldStepBytes ? 0 : bytes;
    const std::uint64_t difference = std::max(worth, said_) - std::min(worth, said_);
    if (difference < limits::kHeldStepBytes) return std::nullopt;
    said_ = worth;
    return worth;
  }

  std::uint64_t bytes_ = 0;
  std::uint64_t said_ = 0;
};

}  // namespace muster
