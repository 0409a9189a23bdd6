// A Unix socket that answers every connection with what it said, for one try of a tunnel.
//
// Threads: has one of its own, which ends with it.
#pragma once

#include <string>
#include <thread>

#include "common/system/descriptor.hpp"

namespace muster {

class EchoSocket {
 public:
  EchoSocket();  // in a new private folder. Throws NodeError.
  ~EchoSocket();
  EchoSocket(const EchoSocket&) = delete;
  EchoSocket& operator=(const EchoSocket&) = delete;

  const std::string& path() const { return path_; }

 private:
  void answer() const;

  std::string folder_;
  std::string path_;
  Descriptor listener_;
  Descriptor end_read_, end_write_;  // a pipe: closed, the thread ends
  std::thread thread_;
};

}  // namespace muster
