#include "worker/agent/lease_queue.hpp"

#include <algorithm>

namespace muster {

void LeaseQueue::push(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  lease.state = LeaseState::queued;
  items_.push_back({&job, sequence, lease.order});
  ++queued_;
}

void LeaseQueue::begin_wait(HeldLease& lease) {
  lease.state = LeaseState::waiting;
  ++waiting_;
}

void LeaseQueue::end_wait(std::vector<ListedLease>&& leases) {
  const auto before = [](const ListedLease& left, const ListedLease& right) {
    return left.order < right.order;
  };
  std::sort(leases.begin(), leases.end(), before);
  for (const ListedLease& item : leases) {
    item.job->leases.find(item.sequence)->state = LeaseState::queued;
    --waiting_;
    ++queued_;
  }
  const auto old_count = static_cast<std::ptrdiff_t>(items_.size());
  items_.insert(items_.end(), leases.begin(), leases.end());
  std::inplace_merge(items_.begin(), items_.begin() + old_count, items_.end(), before);
}

void LeaseQueue::leave(const HeldLease& lease) {
  --(lease.state == LeaseState::waiting ? waiting_ : queued_);
}

const ListedLease* LeaseQueue::front() {
  if (queued_ == 0) return nullptr;
  while (items_.front().is_stale(LeaseState::queued)) items_.pop_front();
  return &items_.front();
}

void LeaseQueue::pop_front() {
  items_.pop_front();
  --queued_;
}

void LeaseQueue::purge() {
  std::erase_if(items_, [](const ListedLease& item) { return item.is_stale(LeaseState::queued); });
}

}  // namespace muster
