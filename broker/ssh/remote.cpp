#include "broker/ssh/remote.hpp"

#include "broker/ssh/libssh_remote.hpp"
#include "broker/ssh/openssh_remote.hpp"

namespace muster {

std::unique_ptr<Remote> make_remote(const Host& host, TunnelCounters& counters) {
  if (host.via == Via::openssh) return std::make_unique<OpensshRemote>(host);
  return std::make_unique<LibsshRemote>(host, counters);
}

}  // namespace muster
