// The agent's blobs: what its leases wait for, and what their outcomes are made of.
#include <algorithm>
#include <utility>

#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "worker/agent/agent.hpp"

namespace muster {
namespace {

std::vector<BlobName> names_in(const Payload& payload) {
  std::vector<BlobName> names;
  names.reserve(payload.blobs);
  for (std::size_t i = 0; i < payload.blobs; ++i) names.push_back(blob_at(payload, i));
  return names;
}

bool by_id(const BlobName& left, const BlobName& right) { return left.id < right.id; }
bool same_id(const BlobName& left, const BlobName& right) { return left.id == right.id; }

}  // namespace

void Agent::ask(BlobRequest::Kind kind, const BlobName& name) {
  const bool frees = kind == BlobRequest::Kind::release || kind == BlobRequest::Kind::drop;
  if (frees) ++releases_;
  requests_.push_back({kind, name});
}

void Agent::ask_for_each(BlobRequest::Kind kind, const Payload& payload) {
  if (payload.blobs == 0) return;
  for (const BlobName& name : names_in(payload)) ask(kind, name);
}

// The outcome is the broker's now, or nobody's.
void Agent::discard_outcome(const HeldLease& lease) {
  if (lease.body.blobs == 0) return;
  --kept_results_;
  ask_for_each(BlobRequest::Kind::drop, lease.body);
}

// --- What leases need ---------------------------------------------------------------------------

void Agent::take_needs(const HeldJob& job, HeldLease& lease) {
  const Payload& function = job.spec->function.body;
  std::unique_ptr<LeaseNeeds> before = std::move(lease.needs);
  if (!shares_ && (lease.body.blobs > 0 || function.blobs > 0)) {
    std::vector<BlobName> names = names_in(lease.body);
    for (const BlobName& name : names_in(function)) names.push_back(name);
    std::sort(names.begin(), names.end(), by_id);
    names.erase(std::unique(names.begin(), names.end(), same_id), names.end());
    lease.needs = std::make_unique<LeaseNeeds>();
    for (const BlobName& name : names) {
      BlobUse& use = uses_[name.id];
      if (use.leases++ == 0) {
        use.name = name;
        ask(BlobRequest::Kind::fetch, name);
      }
      if (!use.here) ++lease.needs->missing;
      lease.needs->blobs.push_back(name.id);
    }
  }
  release_needs(std::move(before));  // not earlier: what both need stays here
}

void Agent::release_needs(std::unique_ptr<LeaseNeeds> needs) {
  if (needs == nullptr) return;
  for (const BlobId& id : needs->blobs) {
    const auto found = uses_.find(id);
    CHECK(found != uses_.end());
    if (--found->second.leases > 0) continue;
    ask(BlobRequest::Kind::release, found->second.name);
    uses_.erase(found);
  }
}

void Agent::start_waiting(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  lease.state = LeaseState::waiting;
  ++waiting_;
  for (const BlobId& id : lease.needs->blobs) {
    BlobUse& use = uses_.at(id);
    if (!use.here) use.waiters.push_back({&job, sequence, lease.order});
  }
}

// These have all that they need: they take their places in the queue, which is in the order in
// which the leases came.
void Agent::end_waiting(std::vector<QueueItem>&& items) {
  const auto before = [](const QueueItem& left, const QueueItem& right) {
    return left.order < right.order;
  };
  std::sort(items.begin(), items.end(), before);
  for (const QueueItem& item : items) {
    item.job->leases.find(item.sequence)->state = LeaseState::queued;
    --waiting_;
    ++queued_;
  }
  const auto old_count = static_cast<std::ptrdiff_t>(queue_.size());
  queue_.insert(queue_.end(), items.begin(), items.end());
  std::inplace_merge(queue_.begin(), queue_.begin() + old_count, queue_.end(), before);
}

void Agent::set_sharing(bool shares, Time now) {
  now_ = now;
  if (shares == shares_) return;
  shares_ = shares;
  blobs_changed_ = true;
  std::vector<QueueItem> ready;
  for (const auto& [name, held] : jobs_) {
    HeldJob& job = *held;
    job.leases.for_each([&](TaskSequence sequence, HeldLease& lease) {
      if (shares) {
        release_needs(std::move(lease.needs));
        if (lease.state == LeaseState::waiting) ready.push_back({&job, sequence, lease.order});
      } else if (lease.state == LeaseState::queued) {
        take_needs(job, lease);
        if (lease.needs == nullptr || lease.needs->missing == 0) return;
        --queued_;
        start_waiting(job, sequence, lease);
      } else if (lease.state == LeaseState::finished) {
        ask_for_each(BlobRequest::Kind::keep, lease.body);
      }
    });
  }
  end_waiting(std::move(ready));
}

// --- The cache's reports ------------------------------------------------------------------------

void Agent::report(std::vector<BlobReport>&& reports, Time now) {
  now_ = now;
  for (const BlobReport& report : reports) {
    switch (report.kind) {
      case BlobReport::Kind::here:
        blob_here(report.blob, now);
        break;
      case BlobReport::Kind::gone:
        blob_gone(report.blob, report.reason, now);
        break;
      case BlobReport::Kind::blocked:
        blob_blocked(report);
        break;
      case BlobReport::Kind::evicted:
        blob_evicted(report.blob);
        break;
    }
  }
}

void Agent::blob_here(const BlobId& id, Time now) {
  now_ = now;
  const auto found = uses_.find(id);
  if (found == uses_.end() || found->second.here) return;  // released meanwhile
  BlobUse& use = found->second;
  use.here = true;
  if (cached_.emplace(id, use.name).second) {
    if (std::erase(removed_, id) == 0) added_.push_back(use.name);
    blobs_changed_ = true;
  }
  std::vector<QueueItem> ready;
  for (const QueueItem& item : std::exchange(use.waiters, {})) {
    if (is_stale(item, LeaseState::waiting)) continue;
    const HeldLease* lease = item.job->leases.find(item.sequence);
    if (--lease->needs->missing == 0) ready.push_back(item);
  }
  end_waiting(std::move(ready));
}

void Agent::blob_gone(const BlobId& id, const std::string& reason, Time now) {
  now_ = now;
  const auto found = uses_.find(id);
  if (found == uses_.end() || found->second.here) return;
  const Failure failure{"blob_lost",
                        "an argument of " + std::to_string(found->second.name.size_bytes) +
                            " bytes (blob " + to_hex(id) + ") cannot be had on " + options_.node +
                            ": " + reason,
                        "",
                        {}};
  // The last of them lets go of the blob.
  for (const QueueItem& item : std::exchange(found->second.waiters, {})) {
    if (is_stale(item, LeaseState::waiting)) continue;
    HeldLease& lease = *item.job->leases.find(item.sequence);
    --waiting_;
    finish(*item.job, item.sequence, lease, failed(OutcomeStatus::error, failure),
           Duration::zero());
  }
}

void Agent::blob_evicted(const BlobId& id) {
  if (cached_.erase(id) == 0) return;
  const auto is_it = [&](const BlobName& name) { return name.id == id; };
  if (std::erase_if(added_, is_it) == 0) removed_.push_back(id);
  blobs_changed_ = true;
}

// --- No room ------------------------------------------------------------------------------------

void Agent::blob_blocked(const BlobReport& report) {
  if (report.releases == releases_) blocked_ = report;  // else the cache looks again
}

// While something runs, or an outcome's blobs are here, there will be room. Otherwise what is here
// is only kept by leases that wait as well: none of them would ever start.
void Agent::fail_blocked() {
  if (blocked_.blob.is_zero()) return;
  const bool is_over = blocked_.releases != releases_;
  std::size_t open = queued_ + kept_results_;
  for (const std::size_t count : in_executor_) open += count;
  if (!is_over && open > 0) return;
  const BlobReport blocked = std::exchange(blocked_, {});
  if (!is_over) blob_gone(blocked.blob, blocked.reason, now_);
}

// --- WORKER_BLOBS -------------------------------------------------------------------------------

void Agent::say_blobs_anew() {
  added_.clear();
  removed_.clear();
  for (const auto& [id, name] : cached_) added_.push_back(name);
  waiting_said_ = 0;
  blobs_changed_ = shares_ || !added_.empty();
}

void Agent::flush_blobs() {
  if (!blobs_changed_ && waiting_ == waiting_said_) return;
  const auto take = [](auto& from, auto& to) {
    const std::size_t count = std::min(from.size(), limits::kMaxBlobEntries);
    to.assign(from.end() - static_cast<std::ptrdiff_t>(count), from.end());
    from.resize(from.size() - count);
  };
  do {
    message::WorkerBlobs said;
    said.shares = shares_;
    said.waiting = static_cast<std::uint32_t>(waiting_);
    take(added_, said.added);
    take(removed_, said.removed);
    outbox_.emplace_back(std::move(said));
  } while (!added_.empty() || !removed_.empty());
  waiting_said_ = waiting_;
  blobs_changed_ = false;
}

void Agent::check_blobs() const {
  std::unordered_map<BlobId, std::size_t> leases;
  std::size_t waiting = 0;
  std::size_t kept = 0;
  for (const auto& [name, job] : jobs_) {
    job->leases.for_each([&](TaskSequence, const HeldLease& lease) {
      waiting += lease.state == LeaseState::waiting ? 1 : 0;
      kept += lease.state == LeaseState::finished && lease.body.blobs > 0 ? 1 : 0;
      CHECK(lease.state != LeaseState::waiting || lease.needs != nullptr);
      if (lease.needs == nullptr) return;
      CHECK(lease.state != LeaseState::finished);
      CHECK((lease.needs->missing > 0) == (lease.state == LeaseState::waiting));
      std::size_t missing = 0;
      for (const BlobId& id : lease.needs->blobs) {
        ++leases[id];
        missing += uses_.at(id).here ? 0 : 1;
      }
      CHECK(missing == lease.needs->missing);
    });
  }
  CHECK(waiting == waiting_);
  CHECK(kept == kept_results_);
  CHECK(leases.size() == uses_.size());
  CHECK(uses_.empty() || !shares_);
  for (const auto& [id, use] : uses_) CHECK(leases[id] == use.leases);
}

}  // namespace muster
