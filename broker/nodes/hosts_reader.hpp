// Reads what a NODES_UP wants on a thread of its own: the plug-ins that it names are read whole for
// their digests, and may be large or on a slow disk.
//
// Owner: NodesControl. Threads: the owner's, for all functions. Blocking: read(), and the
// destructor while something is being read.
#pragma once

#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "broker/hosts/host.hpp"
#include "common/protocol/message.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

class HostsReader {
 public:
  // `plugins`: files that every host's worker loads besides its own.
  explicit HostsReader(std::vector<std::string> plugins);
  ~HostsReader();
  HostsReader(const HostsReader&) = delete;
  HostsReader& operator=(const HostsReader&) = delete;

  struct Result {
    std::vector<Host> hosts;
    std::string error;  // what is wrong, and where; empty: nothing is
  };
  // Here and now. `origin` says where the text comes from, for complaints; relative paths in it
  // start from `folder`, empty: from where `origin` lies, if that is an absolute path. Throws
  // std::invalid_argument.
  std::vector<Host> read(const std::string& text, const std::string& origin,
                         std::string folder = {}) const;
  // On the thread. Precondition: !is_reading().
  void begin(const message::NodesUp& request);
  // From begin() until take() has returned its result.
  bool is_reading() const { return thread_.joinable(); }
  // Nothing: it is not there yet.
  std::optional<Result> take();
  // Readable when take() will return something.
  int descriptor() const { return bell_.get(); }

 private:
  const std::vector<std::string> plugins_;
  Descriptor bell_;
  std::thread thread_;
  Result result_;  // the thread's until it rings
};

}  // namespace muster
