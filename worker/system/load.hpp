// Whether the machine's owner needs it: when others than this worker keep many cores busy, the
// worker starts nothing new until they stop.
//
// LoadGuard is pure; LoadMeter reads /proc. Both belong to the worker's loop.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "common/time.hpp"

namespace muster {

class LoadGuard {
 public:
  // Others' load is the mean of this long.
  static constexpr Duration kWindow = std::chrono::seconds(3);
  // They must be below the limit for so long before the worker goes on.
  static constexpr Duration kCalm = std::chrono::seconds(10);

  explicit LoadGuard(double limit_cores) : limit_cores_(limit_cores) {}

  // `others`: time that others spent on all cores since some moment that never changes.
  void sample(Duration others, Time now);
  // Why the worker pauses, for people; empty: it does not.
  const std::string& reason() const { return reason_; }

 private:
  struct Sample {
    Time time{};
    Duration others{};
  };
  double limit_cores_;
  std::deque<Sample> samples_;  // of the window, and one before it
  Time calm_since_ = kNever;
  std::string reason_;
};

class LoadMeter {
 public:
  static constexpr Duration kInterval = std::chrono::seconds(1);

  explicit LoadMeter(double limit_cores) : guard_(limit_cores) {}
  // Looks when it is time to. True when `reason` may have changed.
  bool look(Time now);
  Time next_look() const { return next_look_; }
  const std::string& reason() const { return guard_.reason(); }

 private:
  LoadGuard guard_;
  Duration others_{};
  Duration last_busy_{};
  Duration last_own_{};
  bool started_ = false;
  Time next_look_{};
};

}  // namespace muster
