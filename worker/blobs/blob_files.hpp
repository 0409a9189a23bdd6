// Blobs as files of a node: those that are there, and those of results from their first byte until
// an outcome names them. The inside of TaskBlobs and BlobFromFile; threads as there.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <muster/blob.hpp>
#include <mutex>
#include <string>

#include "common/protocol/message.hpp"
#include "common/system/descriptor.hpp"
#include "worker/blobs/task_blobs.hpp"

namespace muster {

// Where results go: the first folder that has room.
inline constexpr std::array<const char*, 2> kResultPlaces = {"memory", "disk"};

// A blob of the node's folders.
class StoredBlob : public detail::BlobFile {
 public:
  StoredBlob(std::shared_ptr<const BlobHome> home, const BlobName& name)
      : BlobFile(name.id.high, name.id.low, name.size_bytes), home_(std::move(home)) {}
  Opened open() const override;

 private:
  const std::shared_ptr<const BlobHome> home_;
};

// One of a result. Its file has no name until an outcome names the blob: when the process dies
// before that, the kernel takes it back. (Where the file system cannot do that, or there are too
// many of them, it has its name from the beginning; whose folder it is removes old ones.)
class ResultBlob final : public StoredBlob {
 public:
  // `unnamed`: the file, open; none: it is at `path`.
  ResultBlob(std::shared_ptr<const BlobHome> home, const BlobName& name, std::string path,
             Descriptor unnamed);
  ~ResultBlob() override;
  ResultBlob(const ResultBlob&) = delete;
  ResultBlob& operator=(const ResultBlob&) = delete;

  Opened open() const override;

  // Whether it is free for an outcome. Then the outcome is delivered, or it is free again.
  bool claim() const { return !claimed_.exchange(true); }
  void unclaim() const { claimed_ = false; }
  void deliver() const { delivered_ = true; }
  // Gives the file its name. Throws NoRoomError.
  void link() const;

 private:
  const std::string path_;
  const pid_t maker_;
  mutable std::mutex mutex_;
  mutable Descriptor unnamed_;
  mutable bool counted_ = false;  // among the process's unnamed files
  mutable std::atomic<bool> claimed_{false};
  mutable std::atomic<bool> delivered_{false};
};

// A file that is being written; removed unless it becomes a blob. Owner: one thread.
class IncomingFile {
 public:
  IncomingFile(std::shared_ptr<const BlobHome> home, const char* place, const BlobName& name);
  ~IncomingFile();
  IncomingFile(const IncomingFile&) = delete;
  IncomingFile& operator=(const IncomingFile&) = delete;

  int create();  // returns errno
  int descriptor() const { return written_.get(); }
  const std::string& path() const { return path_; }
  // The blob that the file now is; one that was moved to path() instead of being created, too.
  Blob finish();

 private:
  const std::shared_ptr<const BlobHome> home_;
  const BlobName name_;
  const char* const place_;
  const std::string path_;
  Descriptor written_;
  bool has_name_ = false;
};

BlobName random_name(std::uint64_t size_bytes);
std::string incoming_path(const BlobHome& home, const char* place, const BlobId& id);
// Every user who may enter the folders may read; that is only their owner, or a group of the user's
// choice.
inline constexpr unsigned kResultFileMode = 0644;
bool has_room(const BlobHome& home, const char* place, std::uint64_t size_bytes);
// Whether it had that room if nothing else were on its file system.
bool fits_at_all(const BlobHome& home, const char* place, std::uint64_t size_bytes);
bool is_full(int error);
[[noreturn]] void throw_no_room(const BlobHome& home, std::uint64_t size_bytes);
[[noreturn]] void throw_unwritable(const std::string& path, int error);

}  // namespace muster
