#include "broker/nodes/remote.hpp"

#include "broker/nodes/libssh_remote.hpp"

namespace muster {

std::unique_ptr<Remote> make_remote(const Host& host, TunnelCounters& counters) {
  return std::make_unique<LibsshRemote>(host, counters);
}

}  // namespace muster
