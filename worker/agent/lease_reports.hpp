// What a worker says about its leases, in as few messages as the limits permit. Plain functions
// over what the agent's books hold; one thread.
#pragma once

#include <vector>

#include "common/protocol/message.hpp"
#include "worker/agent/held_job.hpp"

namespace muster {

// For HELLO: every lease in the order in which it came, the oldest ones when there are too many.
std::vector<message::HeldLeases> list_held(const HeldJobs& jobs);

// Appends the leases that go back. Sorts them.
void say_returned(std::vector<Lease>& leases, std::vector<Message>& messages);

}  // namespace muster
