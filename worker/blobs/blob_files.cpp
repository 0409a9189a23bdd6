#include "worker/blobs/blob_files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "common/blobs/user_file.hpp"

namespace muster {
namespace {

// Of a file system this part stays free: others need room there, too.
constexpr std::uint64_t kSpareShare = 16;
constexpr std::uint64_t kMostSpareBytes = std::uint64_t{256} << 20;

// A process may have few files open.
constexpr int kMostUnnamed = 128;
std::atomic<int> unnamed_files{0};

// Each further look finds a blob that moved during the one before.
constexpr int kMostLooks = 100;

std::string hex_of(const detail::BlobFile& file) { return to_hex(BlobId{file.high, file.low}); }

Descriptor open_to_read(const std::string& path) {
  return Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

// The part of a file of the user's that the file at `path` speaks of.
std::optional<detail::BlobFile::Opened> open_users_file(const std::string& path,
                                                        std::uint64_t size_bytes) {
  const Descriptor link = open_to_read(path);
  if (!link) return std::nullopt;
  std::string text(limits::kMaxPathBytes * 2, '\0');
  const ssize_t got = ::read(link.get(), text.data(), text.size());
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  const std::optional<UserFile> file = decode_user_file(text);
  if (!file || file->size_bytes != size_bytes) {
    throw BlobError(
        fmt::format("'{}' does not say which file a blob is in; another version of "
                    "Muster wrote it",
                    path));
  }
  std::string error;
  Descriptor descriptor = open_user_file(*file, error);
  if (!descriptor) throw BlobError(error);
  return detail::BlobFile::Opened{descriptor.release(), file->offset_bytes};
}

}  // namespace

detail::BlobFile::Opened StoredBlob::open() const {
  const std::string memory = fmt::format("{}/memory/{}", home_->folder, hex_of(*this));
  const std::string disk = fmt::format("{}/disk/{}", home_->folder, hex_of(*this));
  // A blob that moves between the two meanwhile can be missed in both, so look more than once.
  for (int look = 0; look < kMostLooks; ++look) {
    for (const std::string& path : {memory, disk}) {
      Descriptor descriptor = open_to_read(path);
      if (descriptor) return {descriptor.release(), 0};
      if (errno != ENOENT) {
        throw BlobError(fmt::format("cannot open blob {} at '{}': {}", hex_of(*this), path,
                                    std::strerror(errno)));
      }
    }
  }
  if (const auto opened = open_users_file(disk + ".file", size_bytes)) return *opened;
  throw BlobError(fmt::format(
      "blob {} ({} bytes) is not on this node any more, looked for in {}/memory and {}/disk: "
      "something other than Muster removed it, or its job is over; run the job again",
      hex_of(*this), size_bytes, home_->folder, home_->folder));
}

ResultBlob::ResultBlob(std::shared_ptr<const BlobHome> home, const BlobName& name, std::string path,
                       Descriptor unnamed)
    : StoredBlob(std::move(home), name),
      path_(std::move(path)),
      maker_(::getpid()),
      unnamed_(std::move(unnamed)) {
  if (!unnamed_) return;
  counted_ = ++unnamed_files <= kMostUnnamed;
  if (counted_) return;
  --unnamed_files;
  link();
}

ResultBlob::~ResultBlob() {
  if (counted_) --unnamed_files;
  const bool wanted = delivered_ || ::getpid() != maker_;  // the child of a fork
  if (!unnamed_ && !wanted) ::unlink(path_.c_str());
}

detail::BlobFile::Opened ResultBlob::open() const {
  const std::lock_guard lock(mutex_);
  const std::string path = unnamed_ ? fmt::format("/proc/self/fd/{}", unnamed_.get()) : path_;
  Descriptor descriptor = open_to_read(path);
  if (descriptor) return {descriptor.release(), 0};
  return StoredBlob::open();  // it was taken
}

void ResultBlob::link() const {
  const std::lock_guard lock(mutex_);
  if (!unnamed_) return;
  const std::string from = fmt::format("/proc/self/fd/{}", unnamed_.get());
  if (::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    throw_unwritable(path_, errno);
  }
  unnamed_.reset();
  if (std::exchange(counted_, false)) --unnamed_files;
}

IncomingFile::IncomingFile(std::shared_ptr<const BlobHome> home, const char* place,
                           const BlobName& name)
    : home_(std::move(home)),
      name_(name),
      place_(place),
      path_(incoming_path(*home_, place, name.id)) {}

IncomingFile::~IncomingFile() {
  if (written_ && has_name_) ::unlink(path_.c_str());
}

int IncomingFile::create() {
  const std::string folder = fmt::format("{}/{}/incoming", home_->folder, place_);
  written_.reset(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kResultFileMode));
  if (!written_ && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    written_.reset(::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kResultFileMode));
    has_name_ = true;
  }
  if (!written_) return errno;
  ::fchmod(written_.get(), kResultFileMode);  // whatever the umask says
  return 0;
}

Blob IncomingFile::finish() {
  Descriptor unnamed = std::move(written_);
  if (has_name_) unnamed.reset();
  return Blob(std::make_shared<ResultBlob>(home_, name_, path_, std::move(unnamed)));
}

BlobName random_name(std::uint64_t size_bytes) {
  std::array<std::uint64_t, 2> words{};
  auto* bytes = reinterpret_cast<char*>(words.data());
  std::size_t have = 0;
  while (have < sizeof words) {
    const ssize_t got = ::getrandom(bytes + have, sizeof words - have, 0);
    if (got > 0) have += static_cast<std::size_t>(got);
  }
  return {{words[0], words[1] | 1}, size_bytes};
}

std::string incoming_path(const BlobHome& home, const char* place, const BlobId& id) {
  return fmt::format("{}/{}/incoming/{}.{}", home.folder, place, to_hex(id), home.owner);
}

// Writing until a file system is full would take from others what they have left.
bool has_room(const BlobHome& home, const char* place, std::uint64_t size_bytes) {
  struct statvfs facts {};
  if (::statvfs(fmt::format("{}/{}/incoming", home.folder, place).c_str(), &facts) != 0) {
    return true;  // creating the file says why
  }
  const std::uint64_t unit = facts.f_frsize;
  const std::uint64_t spare = std::min(facts.f_blocks * unit / kSpareShare, kMostSpareBytes);
  return facts.f_bavail * unit >= spare && facts.f_bavail * unit - spare >= size_bytes;
}

bool fits_at_all(const BlobHome& home, const char* place, std::uint64_t size_bytes) {
  struct statvfs facts {};
  if (::statvfs(fmt::format("{}/{}/incoming", home.folder, place).c_str(), &facts) != 0) {
    return false;
  }
  const std::uint64_t size = facts.f_blocks * facts.f_frsize;
  const std::uint64_t spare = std::min(size / kSpareShare, kMostSpareBytes);
  return size - spare >= size_bytes;
}

[[noreturn]] void throw_no_room(const BlobHome& home, std::uint64_t size_bytes) {
  throw NoRoomError(fmt::format(
      "no room on this node for a result of {} bytes, neither in {}/memory nor in {}/disk; free "
      "space there, or return less at a time",
      size_bytes, home.folder, home.folder));
}

[[noreturn]] void throw_unwritable(const std::string& path, int error) {
  throw NoRoomError(fmt::format("cannot write a result to '{}': {}", path, std::strerror(error)));
}

bool is_full(int error) { return error == ENOSPC || error == EDQUOT; }

}  // namespace muster
