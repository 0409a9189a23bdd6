// Messages over a stream socket between the daemon and a runner: our own codec, and four bytes of
// length before each frame and of the number of frames before each message.
//
// Threads: one reader and one writer at a time; `send` is for one thread.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/protocol/codec.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

// Appends the message to `out` in the form in which it crosses the socket.
void append_message(std::string& out, const Message& message);

// Cuts what was read from the socket into messages.
class MessageReader {
 public:
  enum class Status { message, incomplete, broken };

  // Memory for `read` to fill; `filled` says how much it did.
  char* space(std::size_t& size_bytes);
  void filled(std::size_t size_bytes) { end_ += size_bytes; }
  // The next whole message, if there is one.
  Status next(Message& message);

 private:
  std::string buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace muster
