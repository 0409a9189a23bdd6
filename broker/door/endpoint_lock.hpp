// One broker per endpoint: ZeroMQ would take over another broker's socket file without a word.
#pragma once

#include <string>

namespace muster {

// Makes the endpoint's folder (mode 0700) if it is missing and locks PATH.lock beside the socket
// for its own life. Throws TransportError when another broker holds the lock or the folder cannot
// be used. Removes socket and lock file at its end.
class EndpointLock {
 public:
  explicit EndpointLock(const std::string& endpoint);
  EndpointLock(EndpointLock&& other) noexcept;
  EndpointLock& operator=(EndpointLock&&) = delete;
  EndpointLock(const EndpointLock&) = delete;
  EndpointLock& operator=(const EndpointLock&) = delete;
  ~EndpointLock();

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace muster
