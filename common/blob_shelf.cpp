#include "common/blob_shelf.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace muster {
namespace {

constexpr const char* kIncoming = "incoming";
constexpr const char* kOffset = ".offset";  // of a file of the user's: ID.offset
// A file system is never filled to the brim: others of the machine need it as well.
constexpr std::uint64_t kLeavePart = 20;
constexpr std::uint64_t kLeaveBytes = std::uint64_t{1} << 30;

std::string read_link(int folder, const std::string& name) {
  std::array<char, 4096> text{};
  const ssize_t size = readlinkat(folder, name.c_str(), text.data(), text.size());
  return size <= 0 ? "" : std::string(text.data(), static_cast<std::size_t>(size));
}

}  // namespace

bool parse_blob_id(const std::string& text, BlobId& id) {
  if (text.size() != 32 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return false;
  }
  std::from_chars(text.data(), text.data() + 16, id.high, 16);
  std::from_chars(text.data() + 16, text.data() + 32, id.low, 16);
  return true;
}

std::int64_t changed_ns(const struct stat& status) {
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

BlobShelf::BlobShelf(const std::string& path, std::uint64_t limit_bytes,
                     const FolderClaim::Options& claim)
    : claim_(path, claim), limit_bytes_(limit_bytes), group_(claim.group) {
  if (!claim_.has_predecessor()) clear();
  make_incoming();
}

void BlobShelf::make_incoming() {
  const std::string path = claim_.path() + "/" + kIncoming;
  // Who writes there cannot remove others' files; this process, whose folder it is, can.
  const mode_t mode = group_ ? 01770 : 0700;
  if ((mkdir(path.c_str(), mode) != 0 && errno != EEXIST) || chmod(path.c_str(), mode) != 0) {
    throw std::runtime_error(
        fmt::format("cannot make the folder '{}': {}", path, std::strerror(errno)));
  }
  incoming_.reset(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!incoming_) {
    throw std::runtime_error(
        fmt::format("cannot open the folder '{}': {}", path, std::strerror(errno)));
  }
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
         bytes <= free_bytes();
}

Descriptor BlobShelf::open_blob(const BlobId& id) const {
  return Descriptor(openat(claim_.descriptor(), to_hex(id).c_str(), O_RDONLY | O_CLOEXEC));
}

int BlobShelf::place(const std::string& incoming, const BlobId& id) {
  // Only its maker may do this to a file that another user of the group made.
  fchmodat(incoming_.get(), incoming.c_str(), group_ ? 0440 : 0400, 0);
  const int result =
      renameat(incoming_.get(), incoming.c_str(), claim_.descriptor(), to_hex(id).c_str());
  return result == 0 ? 0 : errno;
}

int BlobShelf::link(const BlobId& id, const BlobFileSource& source) {
  const std::string hex = to_hex(id);
  remove(id);
  const std::string offset =
      fmt::format("{} {} {}", source.offset_bytes, source.size_bytes, source.changed_ns);
  if (symlinkat(offset.c_str(), claim_.descriptor(), (hex + kOffset).c_str()) != 0) return errno;
  return symlinkat(source.path.c_str(), claim_.descriptor(), hex.c_str()) == 0 ? 0 : errno;
}

void BlobShelf::remove(const BlobId& id) {
  const std::string hex = to_hex(id);
  unlinkat(claim_.descriptor(), hex.c_str(), 0);
  unlinkat(claim_.descriptor(), (hex + kOffset).c_str(), 0);
}

void BlobShelf::each_blob(
    const std::function<void(const BlobName&, const BlobFileSource& source)>& visit) {
  std::error_code error;
  std::vector<std::string> stale;
  for (std::filesystem::directory_iterator entry(claim_.path(), error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    BlobName blob;
    struct stat status {};
    if (!parse_blob_id(name, blob.id)) continue;
    if (fstatat(claim_.descriptor(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    BlobFileSource source;
    blob.size_bytes = static_cast<std::uint64_t>(status.st_size);
    if (S_ISLNK(status.st_mode)) {
      source.path = read_link(claim_.descriptor(), name);
      const std::string text = read_link(claim_.descriptor(), name + kOffset);
      char* rest = nullptr;
      source.offset_bytes = std::strtoull(text.c_str(), &rest, 10);
      source.size_bytes = blob.size_bytes = std::strtoull(rest, &rest, 10);
      source.changed_ns = std::strtoll(rest, &rest, 10);
    }
    if (S_ISREG(status.st_mode) || !source.path.empty()) visit(blob, source);
  }
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

void BlobShelf::clear_incoming(const std::string& ending, std::time_t before) const {
  std::error_code error;
  const std::string folder = claim_.path() + "/" + kIncoming;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (name.size() < ending.size() ||
        name.compare(name.size() - ending.size(), ending.size(), ending) != 0) {
      continue;
    }
    struct stat status {};
    if (fstatat(incoming_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (before == 0 || status.st_mtime < before) remove_incoming(name);
  }
}

// Under another name first: nobody reads half a token.
void BlobShelf::write_token(const std::string& token) const {
  const Descriptor file = create_incoming("token");
  const bool written =
      file && write(file.get(), token.data(), token.size()) == static_cast<ssize_t>(token.size());
  if (written) fchmod(file.get(), group_ ? 0440 : 0400);
  if (!written || renameat(incoming_.get(), "token", claim_.descriptor(), "token") != 0) {
    throw std::runtime_error(fmt::format("cannot write '{}/token': {}; make room there",
                                         claim_.path(), std::strerror(errno)));
  }
}

}  // namespace muster
