#include "producer/client/absence.hpp"

#include <fmt/format.h>

#include <array>
#include <ctime>
#include <utility>

namespace muster::detail {
namespace {

// After a verdict, which ends only the waits of that moment, the next look.
constexpr Duration kAgain = std::chrono::milliseconds(100);

std::string clock_text(std::chrono::system_clock::time_point clock) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(clock);
  std::tm parts{};
  ::localtime_r(&seconds, &parts);
  std::array<char, 16> text{};
  const std::size_t length = std::strftime(text.data(), text.size(), "%H:%M:%S", &parts);
  return {text.data(), length};
}

}  // namespace

Duration Absence::limit(const Silence& silence) const {
  if (!limit_) return kNever;
  return silence.is_up ? std::max<Duration>(*limit_, 2 * silence.heartbeat) : Duration(*limit_);
}

std::optional<std::string> Absence::look(const Silence& silence, bool awaited,
                                         std::chrono::system_clock::time_point clock) {
  if (silence.length < silence.usual) {
    if (!silence.is_up || !std::exchange(told_, false)) return std::nullopt;
    const auto absence = std::chrono::duration_cast<std::chrono::seconds>(clock - since_);
    return fmt::format("muster: the broker at {} answers again, after {} s", endpoint_,
                       std::max<std::int64_t>(absence.count(), 0));
  }
  if (silence.length < worth_telling(silence)) return std::nullopt;
  if (!awaited || std::exchange(told_, true)) return std::nullopt;
  since_ = clock - std::chrono::duration_cast<std::chrono::system_clock::duration>(silence.length);
  return fmt::format(
      "muster: waiting for the broker at {}, which has not answered since {}; what was submitted "
      "goes on when it is back, Ctrl-C ends the wait",
      endpoint_, clock_text(since_));
}

std::optional<Error> Absence::verdict(const Silence& silence) const {
  if (silence.length <= limit(silence)) return std::nullopt;
  const std::chrono::duration<double> seconds = silence.length;
  return Error(ErrorCode::disconnected, "disconnected",
               fmt::format("the broker at {0} has not answered for {1:.1f} s; is muster-broker "
                           "running? start it with `muster-broker --listen {0}`, or set "
                           "MUSTER_BROKER to nothing to use a pool on this machine",
                           endpoint_, seconds.count()));
}

Duration Absence::next(const Silence& silence) const {
  const Duration end = limit(silence);
  Duration next = kNever;
  if (!told_) next = std::max(worth_telling(silence) - silence.length, Duration{0});
  if (end == kNever) return next;
  return std::min(next, end >= silence.length ? end - silence.length + Duration{1} : kAgain);
}

}  // namespace muster::detail
