// HELLO of producers and workers, and WELCOME. Pure.
#pragma once

#include "broker/scheduling/reactor.hpp"

namespace muster {

// Who greets, and what is known of the connection: `user` of one that is not local, `local` of the
// others.
struct Greeter {
  PeerId peer{};
  const RemoteUser* user = nullptr;
  const LocalUser& local;
};

Refusal greet(Reactor& reactor, const Greeter& greeter, message::HelloProducer&& hello, Time now);
Refusal greet(Reactor& reactor, const Greeter& greeter, message::HelloWorker&& hello, Time now);

}  // namespace muster
