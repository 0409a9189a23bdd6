// Follows what one peer sends on a ZMTP 3 connection (rfc.zeromq.org, 23), as far as it takes to
// know whether it names itself and whether its messages end. Pure; keeps no body.
//
// Owner: the connection's. Threads: one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/protocol/limits.hpp"

namespace muster {

class ZmtpScanner {
 public:
  enum class Verdict {
    fine,
    foreign,    // no ZMTP of version 3
    claims_id,  // it asks for a routing id of its choice
    endless,    // a message of more frames or bytes than Muster's can have
  };

  // What may have come of one message that has not ended, beside its largest frame: a batch of
  // small payloads and frame 0, with room.
  static constexpr std::size_t kMaxUnfinishedBytes = std::size_t{16} << 20;
  // A message with a few frames too many is let through, so that it is refused by what it says.
  static constexpr std::size_t kMaxUnfinishedFrames = 8 * limits::kMaxFrames;

  // The next bytes of the connection. After another verdict than fine nothing more may come.
  Verdict read(std::string_view bytes);
  // Nothing can be said of its messages: CURVE.
  bool is_encrypted() const { return encrypted_; }
  // Of the message that has begun and not ended, as far as it is here.
  std::uint64_t unfinished_bytes() const { return message_bytes_ - (is_command_ ? 0 : body_left_); }

 private:
  static constexpr std::size_t kGreetingBytes = 64;
  static constexpr std::size_t kMostHeaderBytes = 9;

  Verdict greet(std::string_view& bytes);
  Verdict begin_frame();
  Verdict end_frame();
  void take(std::string_view& bytes);
  bool names_itself() const;

  std::array<char, kGreetingBytes> greeting_{};
  std::size_t greeting_size_ = 0;
  std::array<unsigned char, kMostHeaderBytes> header_{};
  std::size_t header_size_ = 0;
  bool in_body_ = false;
  bool is_command_ = false;
  bool encrypted_ = false;
  bool is_ready_ = false;  // the handshake's last command came
  std::uint64_t body_left_ = 0;
  std::uint64_t message_bytes_ = 0;  // declared, of the message so far
  std::uint64_t largest_frame_ = 0;  // … of these
  std::uint64_t frames_ = 0;
  std::string command_;
};

}  // namespace muster
