#include "common/blobs/blob_shelf.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "common/blobs/owner_mark.hpp"

namespace muster {
namespace {

constexpr const char* kIncoming = "incoming";
constexpr const char* kFile = ".file";  // ID.file says where a file of the user's is
// A file system is never filled to the brim: others of the machine need it as well.
constexpr std::uint64_t kLeavePart = 20;
constexpr std::uint64_t kLeaveBytes = std::uint64_t{1} << 30;

// False when the text is not the name of a blob's file.
bool parse_blob_id(const std::string& text, BlobId& id) {
  if (text.size() != 32 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return false;
  }
  std::from_chars(text.data(), text.data() + 16, id.high, 16);
  std::from_chars(text.data() + 16, text.data() + 32, id.low, 16);
  return true;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename());
  }
  return names;
}

}  // namespace

BlobShelf::BlobShelf(const std::string& path, std::uint64_t limit_bytes,
                     const FolderClaim::Options& claim)
    : claim_(path, claim), limit_bytes_(limit_bytes), group_(claim.group) {
  if (!claim_.has_predecessor()) clear();
  make_incoming();
}

void BlobShelf::make_incoming() {
  incoming_ = make_shared(kIncoming);
  owners_ = make_shared(kOwnersFolder);
}

// A folder into which others write.
Descriptor BlobShelf::make_shared(const char* name) const {
  const std::string path = claim_.path() + "/" + name;
  // A process that writes there cannot remove others' files, nor list them: their names have
  // session ids. This process, whose folder it is, can.
  const mode_t mode = group_ ? 01730 : 0700;
  if ((mkdir(path.c_str(), mode) != 0 && errno != EEXIST) || chmod(path.c_str(), mode) != 0) {
    throw std::runtime_error(
        fmt::format("cannot make the folder '{}': {}", path, std::strerror(errno)));
  }
  Descriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (folder) return folder;
  throw std::runtime_error(
      fmt::format("cannot open the folder '{}': {}", path, std::strerror(errno)));
}

// What a process left here that did not mean to come back, or before the machine started.
void BlobShelf::clear() {
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(claim_.path(), ignored), end;
       !ignored && entry != end; entry.increment(ignored)) {
    std::error_code stays;
    if (entry->path().filename() != "lock") std::filesystem::remove_all(entry->path(), stays);
  }
}

std::uint64_t BlobShelf::free_bytes() const {
  struct statvfs status {};
  if (fstatvfs(claim_.descriptor(), &status) != 0) return 0;
  const std::uint64_t free = std::uint64_t{status.f_bavail} * status.f_frsize;
  const std::uint64_t size = std::uint64_t{status.f_blocks} * status.f_frsize;
  const std::uint64_t leave = std::min(size / kLeavePart, kLeaveBytes);
  return free > leave ? free - leave : 0;
}

bool BlobShelf::has_room(std::uint64_t bytes) const {
  return used_bytes_ <= limit_bytes_ && bytes <= limit_bytes_ - used_bytes_ &&
         bytes + promised_bytes_ <= free_bytes();
}

Descriptor BlobShelf::open_blob(const BlobId& id) const {
  constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  return Descriptor(openat(claim_.descriptor(), to_hex(id).c_str(), kFlags));
}

int BlobShelf::place(const std::string& incoming, const BlobId& id) {
  const Descriptor opened = open_incoming(incoming);
  return opened ? place(incoming, id, opened.get()) : errno;
}

int BlobShelf::place(const std::string& incoming, const BlobId& id, int opened) {
  const std::string hex = to_hex(id);
  // Only its maker may do this to a file that another user of the group made. Such a file, or what
  // a worker of this user made, may be of any group: the folder decides which users may read it.
  fchmod(opened, group_ ? 0444 : 0400);
  if (renameat(incoming_.get(), incoming.c_str(), claim_.descriptor(), hex.c_str()) != 0) {
    return errno;
  }
  // Its maker could put something else under this name until now, a link to anywhere as well.
  struct stat looked_at {};
  struct stat placed {};
  if (fstat(opened, &looked_at) == 0 &&
      fstatat(claim_.descriptor(), hex.c_str(), &placed, AT_SYMLINK_NOFOLLOW) == 0 &&
      placed.st_ino == looked_at.st_ino && placed.st_dev == looked_at.st_dev) {
    return 0;
  }
  unlinkat(claim_.descriptor(), hex.c_str(), 0);
  return ESTALE;
}

int BlobShelf::refer(const BlobId& id, const UserFile& file) {
  return write_whole(to_hex(id) + kFile, encode_user_file(file));
}

void BlobShelf::remove(const BlobId& id) {
  const std::string hex = to_hex(id);
  unlinkat(claim_.descriptor(), hex.c_str(), 0);
  unlinkat(claim_.descriptor(), (hex + kFile).c_str(), 0);
}

void BlobShelf::each_blob(const std::function<void(const BlobName&)>& visit) const {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(claim_.path(), error), end; !error && entry != end;
       entry.increment(error)) {
    BlobName name;
    struct stat status {};
    if (!parse_blob_id(entry->path().filename(), name.id)) continue;
    if (lstat(entry->path().c_str(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
    name.size_bytes = static_cast<std::uint64_t>(status.st_size);
    visit(name);
  }
}

void BlobShelf::each_user_file(
    const std::function<void(const BlobId&, const UserFile&)>& visit) const {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(claim_.path(), error), end; !error && entry != end;
       entry.increment(error)) {
    BlobId id;
    if (entry->path().extension() != kFile || !parse_blob_id(entry->path().stem(), id)) continue;
    std::ostringstream text;
    text << std::ifstream(entry->path()).rdbuf();
    if (const auto file = decode_user_file(text.str())) visit(id, *file);
  }
}

std::optional<std::uint32_t> BlobShelf::maker_of(const std::string& name) const {
  struct stat status {};
  if (fstatat(incoming_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return {};
  return status.st_uid;
}

bool BlobShelf::has_incoming(const std::string& name) const {
  return faccessat(incoming_.get(), name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

Descriptor BlobShelf::open_incoming(const std::string& name) const {
  return Descriptor(
      openat(incoming_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
}

Descriptor BlobShelf::create_incoming(const std::string& name) const {
  remove_incoming(name);
  return Descriptor(
      openat(incoming_.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

void BlobShelf::remove_incoming(const std::string& name) const {
  unlinkat(incoming_.get(), name.c_str(), 0);
}

void BlobShelf::clear_incoming(const std::string& ending) const {
  for (const std::string& name : names_in(claim_.path() + "/" + kIncoming)) {
    if (name.ends_with(ending)) remove_incoming(name);
  }
}

void BlobShelf::clear_abandoned(std::time_t dead_before, std::time_t before) const {
  for (const std::string& name : names_in(claim_.path() + "/" + kIncoming)) {
    struct stat status {};
    if (fstatat(incoming_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const std::string owner = name.substr(name.rfind('.') + 1);
    switch (life_of(owners_.get(), owner, status.st_uid)) {
      case OwnerLife::lives:
        break;
      case OwnerLife::dead:
        if (status.st_mtime < dead_before) remove_incoming(name);
        break;
      case OwnerLife::unknown:
        if (status.st_mtime < before) remove_incoming(name);
        break;
    }
  }
  for (const std::string& owner : names_in(claim_.path() + "/" + kOwnersFolder)) {
    struct stat status {};
    if (fstatat(owners_.get(), owner.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const bool is_old = status.st_mtime < before;  // and not just being made
    if (is_old && life_of(owners_.get(), owner, status.st_uid) == OwnerLife::dead) {
      unlinkat(owners_.get(), owner.c_str(), 0);
    }
  }
}

void BlobShelf::write_token(const std::string& token) const {
  if (write_whole("token", token) == 0) return;
  throw std::runtime_error(fmt::format("cannot write '{}/token': {}; make room there",
                                       claim_.path(), std::strerror(errno)));
}

// Under another name first: nobody reads half of it.
int BlobShelf::write_whole(const std::string& name, const std::string& text) const {
  const Descriptor file = create_incoming(name);
  if (!file) return errno;
  const ssize_t written = write(file.get(), text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size())) return written < 0 ? errno : ENOSPC;
  fchmod(file.get(), group_ ? 0444 : 0400);
  const int result = renameat(incoming_.get(), name.c_str(), claim_.descriptor(), name.c_str());
  return result == 0 ? 0 : errno;
}

}  // namespace muster
