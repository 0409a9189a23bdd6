// Stands where systemd stands: a datagram socket that hears what services say.
//
// Owner: one test. Threads: the owner's.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <string>

#include "tests/support/child.hpp"

namespace muster::testing {

class HearingManager {
 public:
  // `address` as in NOTIFY_SOCKET: a path, or "@name".
  explicit HearingManager(const std::string& address)
      : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, address.data(), address.size());
    if (name.sun_path[0] == '@') name.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&name), length), 0);
  }

  // The oldest datagram that was not heard yet; empty: none.
  std::string hear() {
    std::array<char, 4096> buffer{};
    const auto size = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    return size < 0 ? "" : std::string(buffer.data(), static_cast<std::size_t>(size));
  }

  // Waits until a datagram says `line`, which ends with a newline; those before it are forgotten.
  bool wait_for(const std::string& line) {
    return wait_until([&] {
      for (std::string heard = hear(); !heard.empty(); heard = hear()) {
        last_heard_ = heard;
        if (("\n" + heard).find("\n" + line) != std::string::npos) return true;
      }
      return false;
    });
  }
  const std::string& last_heard() const { return last_heard_; }

 private:
  Descriptor socket_;
  std::string last_heard_;
};

}  // namespace muster::testing
