// Opens the byte stream that an ssh session runs over: a TCP connection, or the standard streams of
// a command that makes one (a jump host). Threads: the caller's; blocks until done or cut.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "broker/ssh/waker.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

using Deadline = std::chrono::steady_clock::time_point;

// One numeric address of a host.
struct DialAddress {
  int family = 0;
  std::vector<char> bytes;  // a sockaddr
  std::string text;
};

// The addresses of `host`, in the order in which to try them. Throws NodeError "resolve".
std::vector<DialAddress> resolve(const std::string& host, std::uint16_t port, Waker& waker,
                                 Deadline deadline);

// Connects to the first address that answers; the later ones are tried when the earlier ones take
// long. `host` is for error texts. Throws NodeError "connect".
Descriptor dial(const std::vector<DialAddress>& addresses, const std::string& host,
                std::uint16_t port, Waker& waker, Deadline deadline);

// Nothing waits for an answer on its way, and a dead peer is noticed: see the constants.
void tune_tcp(int socket);

// A child process whose standard input and output are one socket here.
class ProxyCommand {
 public:
  ProxyCommand() = default;
  ~ProxyCommand();
  ProxyCommand(const ProxyCommand&) = delete;
  ProxyCommand& operator=(const ProxyCommand&) = delete;

  // Runs argv[0], found in PATH, and returns the socket. Throws NodeError "connect".
  Descriptor start(const std::vector<std::string>& argv);
  bool started() const { return child_ > 0; }
  // What it wrote to its standard error so far: at most the last KiB, without line ends.
  std::string complaint() const;

 private:
  pid_t child_ = 0;
  Descriptor errors_;
};

}  // namespace muster
