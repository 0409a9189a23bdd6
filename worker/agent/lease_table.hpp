// The leases of one job that an agent holds, by sequence. Owned by the agent.
//
// Sequences arrive nearly contiguous, so the leases stand in pages of 32 neighbours: a lookup in
// the page of the last one costs no hashing, an insertion allocates once per page, and a range
// walks its pages. Pure; one thread.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

enum class LeaseState : std::uint8_t {
  queued,      // in the agent's queue; `body` holds the arguments
  waiting,     // for blobs that are not here yet; `body` holds the arguments
  started,     // given to the executor
  finished,    // `body` and `status` hold the outcome until it is acknowledged
  abandoned,   // in the executor, and nobody wants its outcome any more
  superseded,  // in the executor and stopped; `body` holds the arguments of the lease after it
};

// The blobs that a lease uses on a node which has copies of its own.
struct LeaseNeeds {
  std::vector<BlobId> blobs;  // each once
  std::size_t missing = 0;    // those that are not here yet
};

struct HeldLease {
  Payload body;
  std::unique_ptr<LeaseNeeds> needs;  // null: none, or none that need a copy
  std::uint64_t order = 0;  // counts the leases of the worker in the order in which it got them
  Duration busy{};
  Attempt attempt{};           // the broker's present lease
  Attempt executor_attempt{};  // the lease that the executor knows
  LeaseState state = LeaseState::queued;
  OutcomeStatus status = OutcomeStatus::result;
  bool stopping = false;  // the executor was told to stop it

  bool is_unstarted() const { return state == LeaseState::queued || state == LeaseState::waiting; }
  bool in_executor() const {
    return state == LeaseState::started || state == LeaseState::abandoned ||
           state == LeaseState::superseded;
  }
};

class LeaseTable {
 public:
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // The lease of `sequence` or null; valid until it is erased.
  HeldLease* find(TaskSequence sequence) {
    Page* page = page_of(value(sequence) / kPageLeases);
    const std::uint32_t bit = bit_of(sequence);
    return page != nullptr && (page->mask & bit) != 0 ? &page->leases[index_of(sequence)] : nullptr;
  }

  // Precondition: there is no lease of `sequence`.
  HeldLease& insert(TaskSequence sequence) {
    const std::uint64_t number = value(sequence) / kPageLeases;
    Page* page = page_of(number);
    if (page == nullptr) page = add_page(number);
    page->mask |= bit_of(sequence);
    ++size_;
    return page->leases[index_of(sequence)];
  }

  // Precondition: there is a lease of `sequence`.
  void erase(TaskSequence sequence) {
    const std::uint64_t number = value(sequence) / kPageLeases;
    Page* page = page_of(number);
    page->leases[index_of(sequence)] = HeldLease{};
    page->mask &= ~bit_of(sequence);
    --size_;
    if (page->mask != 0) return;
    const auto found = pages_.find(number);
    if (spare_ == nullptr) spare_ = std::move(found->second);
    pages_.erase(found);
    last_page_ = nullptr;
  }

  // Calls visit(sequence, lease) for the leases of a range, ascending within a page; `visit` may
  // erase the lease it is given, and nothing else. Costs no more than the smaller of range and
  // table.
  template <typename Visit>
  void for_range(TaskSequence first, std::uint64_t count, Visit&& visit) {
    const std::uint64_t begin = value(first);
    const std::uint64_t last = begin + (count - 1);
    const std::uint64_t first_page = begin / kPageLeases;
    const std::uint64_t page_count = last / kPageLeases - first_page + 1;
    if (count == 0) return;
    if (page_count <= pages_.size()) {
      for (std::uint64_t i = 0; i < page_count; ++i) visit_page(first_page + i, begin, last, visit);
      return;
    }
    std::vector<std::uint64_t> numbers;
    for (const auto& [number, page] : pages_) numbers.push_back(number);
    for (const std::uint64_t number : numbers) visit_page(number, begin, last, visit);
  }

  template <typename Visit>
  void for_each(Visit&& visit) {
    for_range(TaskSequence{0}, ~std::uint64_t{0}, visit);
  }

 private:
  static constexpr std::uint64_t kPageLeases = 32;
  struct Page {
    std::uint32_t mask = 0;
    std::array<HeldLease, kPageLeases> leases;
  };

  static std::size_t index_of(TaskSequence sequence) { return value(sequence) % kPageLeases; }
  static std::uint32_t bit_of(TaskSequence sequence) {
    return std::uint32_t{1} << index_of(sequence);
  }

  Page* page_of(std::uint64_t number) {
    if (last_page_ != nullptr && last_number_ == number) return last_page_;
    const auto found = pages_.find(number);
    if (found == pages_.end()) return nullptr;
    last_number_ = number;
    last_page_ = found->second.get();
    return last_page_;
  }
  Page* add_page(std::uint64_t number) {
    auto page = spare_ != nullptr ? std::move(spare_) : std::make_unique<Page>();
    last_number_ = number;
    last_page_ = page.get();
    pages_.emplace(number, std::move(page));
    return last_page_;
  }
  template <typename Visit>
  void visit_page(std::uint64_t number, std::uint64_t begin, std::uint64_t last, Visit&& visit) {
    Page* page = page_of(number);
    if (page == nullptr) return;
    for (std::uint32_t mask = page->mask; mask != 0; mask &= mask - 1) {
      const auto index = static_cast<std::size_t>(std::countr_zero(mask));
      const std::uint64_t sequence = number * kPageLeases + index;
      if (sequence < begin || sequence > last) continue;
      visit(TaskSequence{sequence}, page->leases[index]);
    }
  }

  std::unordered_map<std::uint64_t, std::unique_ptr<Page>> pages_;
  std::unique_ptr<Page> spare_;
  std::size_t size_ = 0;
  std::uint64_t last_number_ = 0;
  Page* last_page_ = nullptr;
};

}  // namespace muster
