// How many bytes of blobs the tasks of one job brought along that have no outcome yet. A blob that
// several of them name at once is shared data: its room does not grow with the number of tasks, so
// it does not count. Pure. Owner and thread: the Collector it belongs to.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/message.hpp"

namespace muster {

// Of all blobs that a payload names.
inline std::uint64_t blob_bytes_of(const Payload& payload) {
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < payload.blobs; ++i) bytes += blob_at(payload, i).size_bytes;
  return bytes;
}

class BlobWindow {
 public:
  void pushed(std::uint64_t sequence, const Payload& payload) {
    if (payload.blobs == 0) return;
    std::vector<BlobName>& names = tasks_[sequence];
    for (std::size_t i = 0; i < payload.blobs; ++i) {
      names.push_back(blob_at(payload, i));
      Use& use = uses_[names.back().id];
      ++use.tasks;
      if (use.tasks == 1) {
        bytes_ += names.back().size_bytes;
      } else if (!std::exchange(use.shared, true)) {
        bytes_ -= names.back().size_bytes;
      }
    }
  }
  // Its outcome is there.
  void finished(std::uint64_t sequence) {
    if (tasks_.empty()) return;
    const auto found = tasks_.find(sequence);
    if (found == tasks_.end()) return;
    for (const BlobName& name : found->second) {
      const auto use = uses_.find(name.id);
      if (--use->second.tasks > 0) continue;
      if (!use->second.shared) bytes_ -= name.size_bytes;
      uses_.erase(use);
    }
    tasks_.erase(found);
  }
  std::uint64_t bytes() const { return bytes_; }
  bool empty() const { return tasks_.empty() && uses_.empty() && bytes_ == 0; }

 private:
  struct Use {
    std::uint32_t tasks = 0;
    bool shared = false;
  };
  std::unordered_map<BlobId, Use> uses_;
  std::unordered_map<std::uint64_t, std::vector<BlobName>> tasks_;  // only those with blobs
  std::uint64_t bytes_ = 0;
};

}  // namespace muster
