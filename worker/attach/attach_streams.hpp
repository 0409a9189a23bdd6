// The standard streams of `muster-worker attach`, through which the broker talks to it
// (worker/attach/attach.hpp). Threads: one.
#pragma once

#include <optional>
#include <string>

#include "worker/system/clock.hpp"

namespace muster {

// "muster: TEXT\n" on standard error.
void say(const std::string& text);

// "TEXT\n" on a descriptor. A broker that no longer listens is not an error.
void write_line(int descriptor, const std::string& text);

// Waits until there is something to read, or the other side is gone. False: not before `deadline`.
bool readable(int descriptor, Time deadline);

// Standard input, line by line.
class AttachInput {
 public:
  bool open() const { return open_; }
  // Reads what is there. Blocks if nothing is.
  void read();
  std::optional<std::string> line();

 private:
  std::string text_;
  bool open_ = true;
};

}  // namespace muster
