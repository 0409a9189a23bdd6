// The broker's blobs as files, in folders that producers and workers of this machine share.
//
// Owner: the broker's main. Threads: the loop's. Blocking: on input and output of small pieces at
// most; what memory has no room for moves to disk on a thread of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/books/blob_files.hpp"
#include "common/blobs/blob_folder.hpp"

namespace muster {

struct BlobOptions {
  std::optional<std::uint64_t> memory_bytes;  // default: a quarter of the machine's memory
  std::optional<std::uint64_t> disk_bytes;    // default: half of what its file system has free
  std::string folder = {};  // for the disk; empty: $XDG_CACHE_HOME/muster/blobs or in ~/.cache
  bool group = false;       // members of this process's group share the folders
  bool lasting = true;      // a successor at the same endpoint takes them over
};

class BlobStore : public BlobFiles {
 public:
  // `endpoint`: gives the folders a name that its next broker finds again. Never throws: without
  // folders the reason is logged, and every blob is refused with it.
  BlobStore(const BlobOptions& options, const std::string& endpoint);

  bool holds(const BlobName& name) const override;
  std::string adopt(const BlobSource& source, std::optional<std::uint32_t> maker) override;
  void pin(const BlobId& id) override;
  void unpin(const BlobId& id, bool cached) override;
  void clear_incoming(const std::string& owner) override;

  // Null: there are no folders.
  BlobFolder* folder() { return folder_.get(); }
  // For WELCOME.
  std::vector<std::string> folders() const;
  std::string token() const;
  std::uint64_t memory_limit_bytes() const { return memory_limit_; }
  std::uint64_t disk_limit_bytes() const { return disk_limit_; }

  // Also logs what keeps blobs from moving to disk.
  void tick(Time now);
  Time next_deadline() const;

 private:
  void open(const BlobOptions& options, const std::string& endpoint);

  std::unique_ptr<BlobFolder> folder_;
  std::string reason_;  // why there is none
  std::string trouble_told_;
  std::uint64_t memory_limit_ = 0;
  std::uint64_t disk_limit_ = 0;
  Time now_{0};
};

}  // namespace muster
