// Time is an argument: pure cores are handed a monotonic time and never read a clock.
#pragma once

#include <chrono>

namespace muster {

using Duration = std::chrono::nanoseconds;

// Since an arbitrary start; only differences have a meaning. Shells take it from steady_clock.
using Time = std::chrono::nanoseconds;

inline constexpr Time kNever = Time::max();

}  // namespace muster
