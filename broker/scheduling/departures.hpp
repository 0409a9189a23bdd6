// What it means that a session or a worker is gone. Pure.
#pragma once

#include "broker/scheduling/reactor.hpp"

namespace muster {

// Its connection is forgotten, too.
void end_session(Reactor& reactor, SessionRecord& session);
// The session's connection, if it is still its own.
void forget_connection(Reactor& reactor, const SessionRecord& session);
// Its leases are given to others. `told_to_stop`: it said GOODBYE; nothing counts as lost while
// running. Its connection is not forgotten.
void lose_worker(Reactor& reactor, WorkerIndex index, bool told_to_stop);

}  // namespace muster
