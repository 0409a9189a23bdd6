// The folder in which the runners and commands of this worker find blobs: $MUSTER_BLOBS.
//
//   memory, disk   folders of blobs: the broker's, when it is on this machine, else this worker's
//   shares         a file that is there when they are the broker's
//
// All three lead through one symbolic link, so that a broker that comes from elsewhere finds them
// either as they were or as they are to be. The folder is in memory (tmpfs); where there is no such
// memory it is on disk.
//
// Owned by main, used on the loop's thread. Blocks for files only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/blobs/folder_claim.hpp"
#include "common/blobs/owner_mark.hpp"
#include "common/protocol/ids.hpp"

namespace muster {

struct WorkerFolderOptions {
  WorkerId worker;
  // "/dev/shm/muster-1000"; made if need be, and goes when it is empty; empty: no such memory.
  std::string memory_root;
  std::string disk_root;      // "~/.cache/muster/blobs"; may be shared with other machines
  std::string disk_top = {};  // "~/.cache/muster": goes when it is empty at the end; empty: stays
};

class WorkerFolder {
 public:
  // Makes it, and removes what workers that are dead left. Throws std::runtime_error.
  explicit WorkerFolder(WorkerFolderOptions options);
  ~WorkerFolder();  // removes it
  WorkerFolder(const WorkerFolder&) = delete;
  WorkerFolder& operator=(const WorkerFolder&) = delete;

  const std::string& path() const { return path_; }
  bool is_in_memory() const { return in_memory_; }
  // Why it is not in memory, although there is such memory; else empty.
  const std::string& trouble() const { return trouble_; }
  // The worker's own folders of blobs, whether they are in use or not. They are not made here.
  std::string memory_folder() const { return path_ + "/own"; }
  std::string disk_folder() const;

  // For what this process starts: MUSTER_BLOBS and MUSTER_BLOB_OWNER. Before any thread.
  void export_environment() const;

  // Of WELCOME: whether its folders are on this machine, and ours to use.
  static bool sees(const std::vector<std::string>& broker_folders, const std::string& token);
  // From now on tasks use these two, memory and disk. What they wrote and nobody took comes along.
  // Throws std::runtime_error.
  void use(const std::vector<std::string>& folders, bool shares);
  const std::vector<std::string>& used() const { return used_; }
  // Says in the broker's folders, which `use` named, that this worker lives, so that what it wrote
  // there waits for it. `use` does that, too; again for a broker that made its folders anew.
  void mark();

  // A result that lies in one of these folders, memory and disk, goes where the broker looks for
  // it.
  void offer(const BlobId& result, const std::vector<std::string>& from) const;
  // A result that a task wrote and nobody wants.
  void discard(const BlobId& result) const;

 private:
  bool make_in_memory();
  void bring_along(const std::vector<std::string>& from) const;
  std::string incoming_name(const BlobId& result) const;

  WorkerFolderOptions options_;
  std::string name_;  // of folders of this worker
  std::string path_;
  bool in_memory_ = false;
  std::string trouble_;
  std::optional<FolderClaim> claim_;
  std::vector<std::string> used_;
  std::vector<std::unique_ptr<OwnerMark>> marks_;  // in the broker's folders
  std::string use_;                                // where `current` leads
  std::uint64_t uses_ = 0;                         // numbers such folders
};

// Where blobs in memory live on this machine: "/dev/shm/muster-1000".
std::string memory_root_of_user();

}  // namespace muster
