// What each message of a worker does. Its greeting: greetings.hpp. Pure.
#pragma once

#include "broker/scheduling/reactor.hpp"

namespace muster {

// A message of this worker. Afterwards it may be lost. Returns why it is refused.
Refusal on_worker(Reactor& reactor, WorkerIndex index, Message&& message, Time now);
// Its outcomes, whose blobs are all here.
void take_outcomes(Reactor& reactor, WorkerIndex index, message::WorkerOutcomes&& message,
                   Time now);
// Whether the outcome of this lease would be taken.
bool expects_outcome(const Reactor& reactor, WorkerIndex index, const SessionId& session, JobId job,
                     TaskSequence sequence, Attempt attempt);

}  // namespace muster
