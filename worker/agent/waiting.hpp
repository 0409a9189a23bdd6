// Tasks that wait inside an executor. Plain functions; any thread.
#pragma once

#include <deque>
#include <unordered_set>
#include <vector>

#include "common/protocol/codec.hpp"
#include "worker/agent/lease.hpp"

namespace muster {

// Removes those of the leases that wait in the queue and hands each to `take`.
template <typename Take>
void take_named(std::deque<TaskStart>& queue, const std::vector<Lease>& leases, Take&& take) {
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  std::erase_if(queue, [&](TaskStart& task) {
    if (named.count(task.lease) == 0) return false;
    take(task);
    return true;
  });
}

inline Outcome cancelled_unstarted() {
  return failed(OutcomeStatus::cancelled, {"cancelled", "cancelled before it started", "", {}});
}

}  // namespace muster
