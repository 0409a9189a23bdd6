// ZMTP 3 by hand over a Unix socket: what no library would send.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/system/descriptor.hpp"

namespace muster::testing {

inline std::string zmtp_greeting(std::string_view mechanism = "NULL") {
  std::string greeting("\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01", 12);
  greeting += mechanism;
  greeting.resize(64, '\0');
  return greeting;
}

inline std::string zmtp_property(std::string_view name, std::string_view content) {
  std::string text(1, static_cast<char>(name.size()));
  text += name;
  text += std::string(3, '\0') + static_cast<char>(content.size());
  text += content;
  return text;
}

inline std::string zmtp_frame(std::string_view body, int flags) {
  std::string frame(1, static_cast<char>(flags | 2));
  for (int shift = 56; shift >= 0; shift -= 8) {
    frame += static_cast<char>(static_cast<std::uint64_t>(body.size()) >> shift);
  }
  return frame.append(body);
}
inline std::string zmtp_part(std::string_view body) { return zmtp_frame(body, 1); }
inline std::string zmtp_last_part(std::string_view body) { return zmtp_frame(body, 0); }

inline std::string zmtp_ready(std::string_view identity = "") {
  return zmtp_frame(std::string("\5READY") + zmtp_property("Socket-Type", "DEALER") +
                        zmtp_property("Identity", identity),
                    4);
}

// A connection that says what it likes; what the other side says is not looked at.
class RawConnection {
 public:
  explicit RawConnection(const std::string& path)
      : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    const auto* its = reinterpret_cast<const sockaddr*>(&address);
    is_open_ = ::connect(socket_.get(), its, sizeof address) == 0;
  }

  // Greets, and waits until the other side has done so: it takes nothing else before.
  bool shake_hands() {
    std::string heard;
    std::array<char, 4096> buffer{};
    bool is_open = say(zmtp_greeting() + zmtp_ready());
    while (is_open && (heard.size() < kGreetingBytes + 2 ||
                       heard.size() < kGreetingBytes + 2 +
                                          static_cast<unsigned char>(heard[kGreetingBytes + 1]))) {
      const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
      is_open = got > 0;
      if (is_open) heard.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return is_open;
  }
  // Blocks until the kernel has taken all of it; false: the other side has ended the connection.
  bool say(std::string_view bytes) {
    while (is_open_ && !bytes.empty()) {
      const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      is_open_ = sent > 0;
      if (is_open_) bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return is_open_;
  }
  // Blocks until the other side has ended the connection, or says nothing more for ten seconds.
  bool is_ended() {
    const timeval patience{10, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    std::array<char, 4096> buffer{};
    ssize_t got = 1;
    while (got > 0) got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    return got == 0 || errno == ECONNRESET;
  }

 private:
  static constexpr std::size_t kGreetingBytes = 64;

  Descriptor socket_;
  bool is_open_ = false;
};

}  // namespace muster::testing
