#include "worker/agent/lease_blobs.hpp"

#include <algorithm>

#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"
#include "common/protocol/limits.hpp"

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

void LeaseBlobs::ask(BlobRequest::Kind kind, const BlobName& name) {
  const bool frees = kind == BlobRequest::Kind::release || kind == BlobRequest::Kind::drop;
  if (frees) ++releases_;
  requests_.push_back({kind, name});
}

void LeaseBlobs::ask_for_each(BlobRequest::Kind kind, const Payload& payload) {
  if (payload.blobs == 0) return;
  for (const BlobName& name : names_in(payload)) ask(kind, name);
}

void LeaseBlobs::keep(const Payload& outcome) {
  if (outcome.blobs == 0) return;
  ++kept_results_;
  ask_for_each(BlobRequest::Kind::keep, outcome);
}

void LeaseBlobs::discard(const Payload& outcome) {
  if (outcome.blobs == 0) return;
  --kept_results_;
  drop(outcome);
}

void LeaseBlobs::drop(const Payload& outcome) { ask_for_each(BlobRequest::Kind::drop, outcome); }

void LeaseBlobs::set_sharing(bool shares) {
  shares_ = shares;
  changed_ = true;
}

// --- What leases need ---------------------------------------------------------------------------

void LeaseBlobs::take_needs(const HeldJob& job, HeldLease& lease) {
  const Payload& function = job.spec->function.body;
  std::unique_ptr<LeaseNeeds> before = std::move(lease.needs);
  if (!shares_ && (lease.body.blobs > 0 || function.blobs > 0)) {
    std::vector<BlobName> names = names_in(lease.body);
    for (const BlobName& name : names_in(function)) names.push_back(name);
    std::sort(names.begin(), names.end(), by_id);
    names.erase(std::unique(names.begin(), names.end(), same_id), names.end());
    lease.needs = std::make_unique<LeaseNeeds>();
    for (const BlobName& name : names) {
      Use& use = uses_[name.id];
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

void LeaseBlobs::release_needs(std::unique_ptr<LeaseNeeds> needs) {
  if (needs == nullptr) return;
  for (const BlobId& id : needs->blobs) {
    const auto found = uses_.find(id);
    CHECK(found != uses_.end());
    if (--found->second.leases > 0) continue;
    ask(BlobRequest::Kind::release, found->second.name);
    uses_.erase(found);
  }
}

void LeaseBlobs::list_waiter(const ListedLease& waiter) {
  for (const BlobId& id : waiter.job->leases.find(waiter.sequence)->needs->blobs) {
    Use& use = uses_.at(id);
    if (!use.here) use.waiters.push_back(waiter);
  }
}

void LeaseBlobs::purge() {
  for (auto& [id, use] : uses_) {
    std::erase_if(use.waiters,
                  [](const ListedLease& item) { return item.is_stale(LeaseState::waiting); });
  }
}

// --- The cache's reports ------------------------------------------------------------------------

std::vector<ListedLease> LeaseBlobs::here(const BlobId& id) {
  const auto found = uses_.find(id);
  if (found == uses_.end() || found->second.here) return {};  // released meanwhile
  Use& use = found->second;
  use.here = true;
  if (cached_.emplace(id, use.name).second) {
    if (std::erase(removed_, id) == 0) added_.push_back(use.name);
    changed_ = true;
  }
  std::vector<ListedLease> ready;
  for (const ListedLease& item : std::exchange(use.waiters, {})) {
    if (item.is_stale(LeaseState::waiting)) continue;
    const HeldLease* lease = item.job->leases.find(item.sequence);
    if (--lease->needs->missing == 0) ready.push_back(item);
  }
  return ready;
}

std::optional<std::pair<BlobName, std::vector<ListedLease>>> LeaseBlobs::gone(const BlobId& id) {
  const auto found = uses_.find(id);
  if (found == uses_.end() || found->second.here) return std::nullopt;
  return std::pair(found->second.name, std::exchange(found->second.waiters, {}));
}

void LeaseBlobs::evicted(const BlobId& id) {
  if (cached_.erase(id) == 0) return;
  const auto is_it = [&](const BlobName& name) { return name.id == id; };
  if (std::erase_if(added_, is_it) == 0) removed_.push_back(id);
  changed_ = true;
}

void LeaseBlobs::blocked(const BlobReport& report) {
  if (report.releases == releases_) blocked_ = report;  // else the cache looks again
}

// While something runs, or an outcome's blobs are here, there will be room. Otherwise what is here
// is only kept by leases that wait as well: none of them would ever start.
std::optional<BlobReport> LeaseBlobs::take_blocked(std::size_t open) {
  if (blocked_.blob.is_zero()) return std::nullopt;
  const bool is_over = blocked_.releases != releases_;
  if (!is_over && open + kept_results_ > 0) return std::nullopt;
  BlobReport blocked = std::exchange(blocked_, {});
  if (is_over) return std::nullopt;
  return blocked;
}

// --- WORKER_BLOBS -------------------------------------------------------------------------------

void LeaseBlobs::say_anew() {
  added_.clear();
  removed_.clear();
  for (const auto& [id, name] : cached_) added_.push_back(name);
  waiting_said_ = 0;
  changed_ = shares_ || !added_.empty();
}

void LeaseBlobs::flush(std::size_t waiting, std::vector<Message>& messages) {
  if (!changed_ && waiting == waiting_said_) return;
  const auto take = [](auto& from, auto& to) {
    const std::size_t count = std::min(from.size(), limits::kMaxBlobEntries);
    to.assign(from.end() - static_cast<std::ptrdiff_t>(count), from.end());
    from.resize(from.size() - count);
  };
  do {
    message::WorkerBlobs said;
    said.shares = shares_;
    said.waiting = static_cast<std::uint32_t>(waiting);
    take(added_, said.added);
    take(removed_, said.removed);
    messages.emplace_back(std::move(said));
  } while (!added_.empty() || !removed_.empty());
  waiting_said_ = waiting;
  changed_ = false;
}

void LeaseBlobs::check(const HeldJobs& jobs) const {
  std::unordered_map<BlobId, std::size_t> leases;
  std::size_t kept = 0;
  for (const auto& [name, job] : jobs) {
    job->leases.for_each([&](TaskSequence, const HeldLease& lease) {
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
  CHECK(kept == kept_results_);
  CHECK(leases.size() == uses_.size());
  CHECK(uses_.empty() || !shares_);
  for (const auto& [id, use] : uses_) CHECK(leases[id] == use.leases);
}

}  // namespace muster
