// What becomes of those who wait for a broker that does not answer: for a while nothing, then a
// person is told, and in the end, if the program wants that, every wait fails.
//
// Owner: a Client, under its turn's lock. Pure: it is handed how long the broker has been silent.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>

#include "common/time.hpp"
#include "producer/client/outcome_error.hpp"

namespace muster::detail {

class Absence {
 public:
  using Limit = std::optional<std::chrono::milliseconds>;

  // `limit`: how long waits go on; nothing: as long as it takes.
  Absence(std::string endpoint, Limit limit) : endpoint_(std::move(endpoint)), limit_(limit) {}

  struct Silence {
    Duration length{};     // since the broker was heard last
    Duration usual{};      // a broker that answers is never silent for so long
    Duration heartbeat{};  // one with nothing to say speaks once in this time
    bool is_up = false;    // it has welcomed this session on the present connection
  };
  // Whether look() or verdict() may say anything.
  bool concerns(const Silence& silence) const {
    return told_ || silence.length >= std::min(worth_telling(silence), limit(silence));
  }
  // A line for people, or nothing: one when the absence has become long, one when it is over.
  // `awaited`: somebody waits for the broker. `clock`: the time of day.
  std::optional<std::string> look(const Silence& silence, bool awaited,
                                  std::chrono::system_clock::time_point clock);
  // What every wait is to end with now, if anything.
  std::optional<Error> verdict(const Silence& silence) const;
  // How long after `silence` they may say something new to those who wait; kNever: they will not.
  Duration next(const Silence& silence) const;

 private:
  // Restarts and short standstills pass unseen.
  static Duration worth_telling(const Silence& silence) { return 3 * silence.usual; }
  Duration limit(const Silence& silence) const;

  const std::string endpoint_;
  const Limit limit_;
  bool told_ = false;
  std::chrono::system_clock::time_point since_;  // told_: when it was heard last
};

}  // namespace muster::detail
