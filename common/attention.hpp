// How long a process has really been listening. One that was stopped, swapped out or on a paused
// machine heard nobody meanwhile, although its clock went on: what it did not hear then says
// nothing about others. So whatever ends because somebody was silent counts in attended time, which
// stands still while the process does.
//
// Owner: one loop, which wakes at the latest when its next deadline has come. Threads: one at a
// time. Pure: the loop hands in what its clock shows.
#pragma once

#include <algorithm>

#include "common/time.hpp"

namespace muster {

class Attention {
 public:
  explicit Attention(Time now) : woke_(now) {}

  // What a clock that shows `now` means in attended time.
  Time at(Time now) const { return now - lost_; }
  // What a clock will show at this attended time.
  Time clock(Time attended) const { return attended == kNever ? kNever : attended + lost_; }

  // The loop goes to sleep until this attended time, if nothing wakes it before.
  void sleeps(Time deadline) { deadline_ = deadline; }

  // The loop wakes. If that is later than its deadline by more than half a heartbeat interval, it
  // stood still: attended time goes on where that half ends. Returns at(now).
  Time wakes(Time now, Duration heartbeat_interval) {
    const Time due = std::max(deadline_, woke_);
    if (deadline_ != kNever) {
      lost_ += std::max(Duration{0}, at(now) - due - heartbeat_interval / 2);
    }
    woke_ = at(now);
    return woke_;
  }

 private:
  Duration lost_{0};
  Time woke_;               // in attended time, as is
  Time deadline_ = kNever;  // what it slept until
};

}  // namespace muster
