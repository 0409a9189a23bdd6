// When a node is tried again. Pure: time and chance are arguments.
#pragma once

#include <algorithm>
#include <chrono>

#include "common/time.hpp"

namespace muster {

class Backoff {
 public:
  // sshd refuses addresses that come back too fast; a person who waits still sees progress.
  static constexpr Duration kFirst = std::chrono::milliseconds(200);
  static constexpr Duration kCap = std::chrono::seconds(30);
  // What only a person can mend is looked at again from time to time.
  static constexpr Duration kLastingFirst = std::chrono::seconds(30);
  static constexpr Duration kLastingCap = std::chrono::seconds(60);
  // A connection that held for so long was a good one: the next failure is a new story.
  static constexpr Duration kGoodAfter = std::chrono::seconds(20);

  // The node is up.
  void up(Time now) { up_since_ = now; }

  // It failed: how long to wait. `chance`: uniform in [0, 1); many nodes that lost the same network
  // do not come back in step. `lasting`: NodeError::Kind::lasting.
  Duration failed(bool lasting, Time now, double chance) {
    if (up_since_ != kNever && now - up_since_ >= kGoodAfter) failures_ = 0;
    up_since_ = kNever;
    if (lasting) return between(kLastingFirst, kLastingCap, chance);
    Duration longest = kFirst;
    for (int i = 0; i < failures_ && longest < kCap; ++i) longest *= 2;
    longest = std::min(longest, kCap);
    ++failures_;
    return between(longest / 2, longest, chance);
  }

  int failures() const { return failures_; }

 private:
  static Duration between(Duration least, Duration most, double chance) {
    return least + std::chrono::duration_cast<Duration>((most - least) * chance);
  }

  int failures_ = 0;  // in a row
  Time up_since_ = kNever;
};

}  // namespace muster
