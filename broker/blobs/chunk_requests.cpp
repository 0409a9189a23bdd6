#include "broker/blobs/chunk_requests.hpp"

#include <algorithm>

#include "common/protocol/limits.hpp"

namespace muster {

const ChunkRequests::Pull* ChunkRequests::pull_of(const BlobId& blob) const {
  const auto found = std::find_if(pulls_.begin(), pulls_.end(),
                                  [&](const Pull& pull) { return pull.name.id == blob; });
  return found == pulls_.end() ? nullptr : &*found;
}

ChunkRequests::Pull* ChunkRequests::pull_of(const BlobId& blob) {
  const auto found = std::find_if(pulls_.begin(), pulls_.end(),
                                  [&](const Pull& pull) { return pull.name.id == blob; });
  return found == pulls_.end() ? nullptr : &*found;
}

const BlobName* ChunkRequests::find(const BlobId& blob) const {
  const Pull* pull = pull_of(blob);
  return pull == nullptr ? nullptr : &pull->name;
}

void ChunkRequests::end(const BlobId& blob) {
  std::erase_if(pulls_, [&](const Pull& pull) {
    if (pull.name.id != blob) return false;
    pending_ -= pull.pending.size();
    return true;
  });
}

std::optional<message::BlobWant> ChunkRequests::next() {
  const auto pull = std::find_if(pulls_.begin(), pulls_.end(),
                                 [](const Pull& one) { return one.asked < one.name.size_bytes; });
  if (pull == pulls_.end()) return std::nullopt;
  const auto bytes = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(limits::kBlobChunkBytes, pull->name.size_bytes - pull->asked));
  const message::BlobWant want{pull->name.id, pull->asked, bytes};
  pull->pending[pull->asked] = bytes;
  pull->asked += bytes;
  ++pending_;
  return want;
}

ChunkRequests::Taken ChunkRequests::take(const BlobId& blob, std::uint64_t offset,
                                         std::size_t bytes) {
  Pull* pull = pull_of(blob);
  if (pull == nullptr) return Taken::stranger;
  const auto asked = pull->pending.find(offset);
  if (asked == pull->pending.end() || asked->second != bytes) return Taken::stranger;
  pull->pending.erase(asked);
  --pending_;
  const bool is_last = pull->pending.empty() && pull->asked >= pull->name.size_bytes;
  return is_last ? Taken::last : Taken::part;
}

bool ChunkRequests::awaits(const BlobId& blob) const {
  const Pull* pull = pull_of(blob);
  return pull != nullptr && !pull->pending.empty();
}

void ChunkRequests::ask_again() {
  for (Pull& pull : pulls_) {
    if (!pull.pending.empty()) pull.asked = pull.pending.begin()->first;
    pull.pending.clear();
  }
  pending_ = 0;
}

std::vector<BlobName> ChunkRequests::begun() const {
  std::vector<BlobName> names;
  names.reserve(pulls_.size());
  for (const Pull& pull : pulls_) names.push_back(pull.name);
  return names;
}

}  // namespace muster
