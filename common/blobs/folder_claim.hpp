// A folder that one process has to itself, and what processes that died left behind.
//
// The owner holds a lock (flock) on FOLDER/lock, which names the machine's boot. A folder whose
// lock is free has no owner: a new claim of the same folder takes it over, and anybody may remove
// it. One that is *lasting* is left alone for ten minutes if there is anything in it, because its
// owner may be started again, and as long as a process lives that works for it (owner_mark.hpp).
// Threads: a claim belongs to one; distinct claims are independent.
#pragma once

#include <cstdint>
#include <string>

#include "common/system/descriptor.hpp"

namespace muster {

class FolderClaim {
 public:
  struct Options {
    bool group = false;    // its group may enter; else only its user
    bool lasting = false;  // leave it alone for a while when the owner dies
    // A folder above it that only Muster uses: it, and those between, go with what was last in
    // them. Empty: all of them stay.
    std::string top = {};
  };
  // Makes the folder, with its parents, where it is missing, and locks it. Throws
  // std::runtime_error when that cannot be done, another process has it, or it is somebody else's
  // or may be: a `top` that lies where everybody can make folders has to be ours alone, and no
  // link.
  FolderClaim(const std::string& path, const Options& options);

  const std::string& path() const { return path_; }
  int descriptor() const { return folder_.get(); }
  // Whether an earlier process of the same boot left files here which this one may go on with.
  bool has_predecessor() const { return has_predecessor_; }
  // Tells others that a lasting folder is in use; call now and then.
  void touch() const;
  // Removes the folder and everything in it, and those above it that are empty then, up to `top`.
  // Last call.
  void remove();

 private:
  std::string path_;
  std::string top_;
  Descriptor folder_;
  Descriptor lock_;
  bool has_predecessor_ = false;
};

// Removes the folders in `parent` whose owners are gone.
void remove_dead_folders(const std::string& parent);
// Removes `folder` if nothing is in it, then the one above it, and so on up to `top`. Nothing, if
// `folder` is not in `top`. A process that makes folders there may meet this at any moment.
void remove_empty_folders(const std::string& folder, const std::string& top);
// Free on the file system where `path` is, or will be.
std::uint64_t free_bytes_at(const std::string& path);

}  // namespace muster
