#include "worker/agent/lease_reports.hpp"

#include <algorithm>
#include <utility>

#include "common/protocol/limits.hpp"

namespace muster {
namespace {

void append_lease(std::vector<LeaseRange>& ranges, TaskSequence sequence, Attempt attempt) {
  if (!ranges.empty() && ranges.back().attempt == attempt &&
      ranges.back().first + ranges.back().count == sequence) {
    ++ranges.back().count;
  } else {
    ranges.push_back({sequence, 1, attempt});
  }
}

}  // namespace

std::vector<message::HeldLeases> list_held(const HeldJobs& jobs) {
  struct Item {
    std::uint64_t order;
    const HeldJob* job;
    TaskSequence sequence;
    Attempt attempt;
  };
  std::vector<Item> items;
  for (const auto& [name, job] : jobs) {
    const HeldJob* held = job.get();
    job->leases.for_each([&](TaskSequence sequence, const HeldLease& lease) {
      if (lease.state == LeaseState::abandoned) return;
      items.push_back({lease.order, held, sequence, lease.attempt});
    });
  }
  std::sort(items.begin(), items.end(),
            [](const Item& left, const Item& right) { return left.order < right.order; });
  if (items.size() > limits::kMaxReportedLeases) items.resize(limits::kMaxReportedLeases);
  std::vector<message::HeldLeases> groups;
  for (const Item& item : items) {
    const JobName& name = item.job->name;
    if (groups.empty() || groups.back().session != name.session || groups.back().job != name.job) {
      groups.push_back({name.session, name.job, {}});
    }
    append_lease(groups.back().leases, item.sequence, item.attempt);
  }
  return groups;
}

void say_returned(std::vector<Lease>& leases, std::vector<Message>& messages) {
  const auto before = [](const Lease& left, const Lease& right) {
    if (left.session != right.session) return left.session < right.session;
    return left.job != right.job ? left.job < right.job : left.sequence < right.sequence;
  };
  std::sort(leases.begin(), leases.end(), before);
  message::Returned batch;
  const auto send = [&] {
    if (!batch.leases.empty()) messages.emplace_back(std::exchange(batch, {}));
  };
  for (const Lease& lease : leases) {
    if (lease.session != batch.session || lease.job != batch.job ||
        batch.leases.size() == limits::kMaxRuns) {
      send();
      batch.session = lease.session;
      batch.job = lease.job;
    }
    append_lease(batch.leases, lease.sequence, lease.attempt);
  }
  send();
}

}  // namespace muster
