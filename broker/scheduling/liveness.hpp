// Who is still there: heartbeats, silences, and what is forgotten after a while. Pure.
#pragma once

#include "broker/scheduling/reactor.hpp"
#include "common/time.hpp"

namespace muster {

// Says heartbeats that are due, gives up workers that were silent for too long and sessions that
// stay away, and forgets what else nobody came back for.
void check_liveness(Reactor& reactor, Time now);
// The process stood still for so long without saying so: nobody else is to blame for that.
void forgive_silence(Reactor& reactor, Duration pause, Time now);
// The producer does not read, but its connection lives: it is told nothing more until it greets.
void set_silent(Peer& peer);

}  // namespace muster
