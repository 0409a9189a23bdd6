// What each message of a producer does. Its greeting: greetings.hpp. Pure.
#pragma once

#include "broker/scheduling/reactor.hpp"

namespace muster {

// A message of this session's producer. It may end the session: see whether it is still there.
// Returns why the producer is refused.
Refusal on_producer(Reactor& reactor, SessionRecord& session, Message&& message, Time now);

}  // namespace muster
