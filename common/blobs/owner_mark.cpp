#include "common/blobs/owner_mark.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace muster {

// Under another name first: nobody sees it unlocked while its owner lives.
OwnerMark::OwnerMark(const std::string& folder, const std::string& owner)
    : path_(folder + "/" + kOwnersFolder + "/" + owner) {
  const std::string fresh = path_ + ".new";
  ::unlink(fresh.c_str());
  lock_.reset(::open(fresh.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!lock_) return;
  ::fchmod(lock_.get(), 0644);  // whatever the umask says: the folder's owner looks at it
  const bool is_marked =
      ::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0 && ::rename(fresh.c_str(), path_.c_str()) == 0;
  if (is_marked) return;
  ::unlink(fresh.c_str());
  lock_.reset();
}

OwnerMark::~OwnerMark() {
  struct stat ours {};
  struct stat there {};
  const bool is_ours = lock_ && ::fstat(lock_.get(), &ours) == 0 &&
                       ::lstat(path_.c_str(), &there) == 0 && ours.st_dev == there.st_dev &&
                       ours.st_ino == there.st_ino;
  if (is_ours) ::unlink(path_.c_str());
}

OwnerLife life_of(int owners, const std::string& owner, uid_t user) {
  const Descriptor mark(
      ::openat(owners, owner.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat status {};
  if (!mark || ::fstat(mark.get(), &status) != 0 || status.st_uid != user) {
    return OwnerLife::unknown;
  }
  return ::flock(mark.get(), LOCK_SH | LOCK_NB) == 0 ? OwnerLife::dead : OwnerLife::lives;
}

bool has_living_owner(const std::string& folder) {
  const std::string path = folder + "/" + kOwnersFolder;
  const Descriptor owners(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    struct stat status {};
    const std::string name = entry->path().filename();
    if (::fstatat(owners.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (life_of(owners.get(), name, status.st_uid) == OwnerLife::lives) return true;
  }
  return false;
}

}  // namespace muster
