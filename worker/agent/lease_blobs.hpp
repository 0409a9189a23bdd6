// The blobs on a node that has copies of its own: which its leases need and which are here, what
// the cache is asked for, and what the broker is told of it. On the broker's machine tasks use the
// broker's own files, and no lease needs anything. Owned by the agent's books. Pure; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/protocol/message.hpp"
#include "worker/agent/blob_request.hpp"
#include "worker/agent/held_job.hpp"

namespace muster {

class LeaseBlobs {
 public:
  // Whether tasks use the broker's own files.
  bool shares() const { return shares_; }
  void set_sharing(bool shares);

  // --- What leases need
  // Notes what the lease needs, instead of what it needed before.
  void take_needs(const HeldJob& job, HeldLease& lease);
  void release_needs(std::unique_ptr<LeaseNeeds> needs);
  // The lease waits for what it needs.
  void list_waiter(const ListedLease& waiter);

  // --- Blobs of outcomes
  void keep(const Payload& outcome);     // until the broker has taken it
  void discard(const Payload& outcome);  // of a kept one: the broker has it, or nobody wants it
  void drop(const Payload& outcome);     // of one that was never kept
  void keep_again(const Payload& outcome) { ask_for_each(BlobRequest::Kind::keep, outcome); }

  // --- The cache's reports
  // Returns the leases that have all that they need now.
  std::vector<ListedLease> here(const BlobId& id);
  // A blob cannot be had: its name, and the leases that wait for it. Nothing: nobody does.
  std::optional<std::pair<BlobName, std::vector<ListedLease>>> gone(const BlobId& id);
  void evicted(const BlobId& id);
  void blocked(const BlobReport& report);
  // The blob that there will be no room for; `open`: leases that will make room by and by.
  std::optional<BlobReport> take_blocked(std::size_t open);
  // Outcomes with blobs that are kept.
  std::size_t kept() const { return kept_results_; }

  // --- What is to be said
  std::vector<BlobRequest> take_requests() { return std::exchange(requests_, {}); }
  // All of it again: a new broker knows nothing of this.
  void say_anew();
  // Appends WORKER_BLOBS, if anything in it has changed; `waiting`: leases that wait.
  void flush(std::size_t waiting, std::vector<Message>& messages);

  void purge();  // of waiters that do not wait any more
  // CHECKs that it agrees with the states of all leases. Slow: tests only.
  void check(const HeldJobs& jobs) const;

 private:
  struct Use {
    BlobName name;
    std::size_t leases = 0;  // that need it
    bool here = false;
    std::vector<ListedLease> waiters;
  };

  void ask(BlobRequest::Kind kind, const BlobName& name);
  void ask_for_each(BlobRequest::Kind kind, const Payload& payload);

  bool shares_ = false;
  std::unordered_map<BlobId, Use> uses_;         // of leases; none while `shares_`
  std::unordered_map<BlobId, BlobName> cached_;  // what the broker knows, or will, to be here
  std::vector<BlobName> added_;                  // what changed of it since WORKER_BLOBS
  std::vector<BlobId> removed_;
  std::size_t waiting_said_ = 0;  // in the last WORKER_BLOBS
  bool changed_ = false;          // WORKER_BLOBS is due
  std::size_t kept_results_ = 0;  // finished leases with blobs
  std::uint64_t releases_ = 0;    // releases and drops asked for
  BlobReport blocked_;            // its `blob` is zero: nothing is
  std::vector<BlobRequest> requests_;
};

}  // namespace muster
