// The blobs that one session keeps at the broker: those that it announced, and those of outcomes
// that it has not released. Part of the scheduler, pure.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>

#include "common/protocol/ids.hpp"
#include "common/protocol/message.hpp"

namespace muster {

// A larger size changes no decision.
inline constexpr std::uint64_t kMostBlobBytes = std::uint64_t{1} << 50;

class BlobTable {
 public:
  struct Kept {
    std::uint64_t size_bytes = 0;
    std::uint64_t charged_bytes = 0;  // against the session's credit; 0: not announced by it
    bool is_result = false;           // nobody needs it after its release
    JobKey job{};                     // of the outcome that named it, with so many bytes …
    std::uint64_t result_bytes = 0;   // … counted there
  };

  // The blob, if it is kept.
  Kept* find(const BlobId& id) {
    const auto found = kept_.find(id);
    return found == kept_.end() ? nullptr : &found->second;
  }
  // Precondition: not kept.
  Kept& keep(const BlobId& id, const Kept& kept) {
    charged_bytes_ += kept.charged_bytes;
    return kept_[id] = kept;
  }
  std::optional<Kept> release(const BlobId& id) {
    const auto found = kept_.find(id);
    if (found == kept_.end()) return std::nullopt;
    const Kept kept = found->second;
    charged_bytes_ -= kept.charged_bytes;
    kept_.erase(found);
    return kept;
  }
  std::size_t size() const { return kept_.size(); }
  std::uint64_t charged_bytes() const { return charged_bytes_; }
  template <typename Visit>  // visit(BlobId, Kept)
  void each(Visit&& visit) const {
    for (const auto& [id, kept] : kept_) visit(id, kept);
  }

 private:
  std::unordered_map<BlobId, Kept> kept_;
  std::uint64_t charged_bytes_ = 0;
};

}  // namespace muster
