// Something at a broker's place that is no broker. Owner: one test.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <string>

#include "tests/support/child.hpp"

namespace muster::testing {

// Accepts connections of a Unix socket.
class Impostor {
 public:
  explicit Impostor(const std::string& path) : path_(path) {
    ::unlink(path.c_str());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    listener_ = Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 16), 0);
  }
  ~Impostor() { ::unlink(path_.c_str()); }
  Impostor(const Impostor&) = delete;
  Impostor& operator=(const Impostor&) = delete;

  // Says this to whoever comes next, and hangs up.
  void meet(const std::string& words) {
    pollfd item{listener_.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&item, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())), 1);
    const Descriptor caller(::accept(listener_.get(), nullptr, nullptr));
    if (!words.empty()) ::send(caller.get(), words.data(), words.size(), MSG_NOSIGNAL);
    char byte = 0;
    while (!words.empty() && ::read(caller.get(), &byte, 1) > 0) {
    }  // until it is disgusted
  }

 private:
  const std::string path_;
  Descriptor listener_;
};

}  // namespace muster::testing
