#include "producer/blobs/blob_files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/system/descriptor.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster::detail {
namespace {

constexpr char kIncoming[] = "/incoming/";

// One call of write(2): large enough that its cost does not show, and a full tmpfs tells in time.
constexpr std::size_t kWriteBytes = std::size_t{8} << 20;
constexpr std::size_t kReadBytes = std::size_t{1} << 20;

// What a blob leaves of the folder in memory for others: a sixteenth.
constexpr std::uint64_t kSpareShare = 16;

struct FileSystemBytes {
  std::uint64_t free = 0;
  std::uint64_t all = 0;
};

FileSystemBytes bytes_of(const std::string& folder) {
  struct statvfs facts {};
  if (::statvfs(folder.c_str(), &facts) != 0) return {};
  return {std::uint64_t{facts.f_bavail} * facts.f_frsize,
          std::uint64_t{facts.f_blocks} * facts.f_frsize};
}

// In the folder in memory.
bool has_memory(const std::string& folder, std::uint64_t size_bytes) {
  const FileSystemBytes bytes = bytes_of(folder);
  return bytes.all > 0 && bytes.free >= size_bytes + bytes.all / kSpareShare;
}

bool may_write(const std::string& folder) {
  return ::access((folder + kIncoming).c_str(), W_OK | X_OK) == 0;
}

// Zero, or what went wrong.
int write_all(int descriptor, std::span<const std::byte> content) {
  while (!content.empty()) {
    const ssize_t written =
        ::write(descriptor, content.data(), std::min(content.size(), kWriteBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    content = content.subspan(static_cast<std::size_t>(written));
  }
  return 0;
}

// Zero, or what went wrong; then nothing is left behind.
int write_file(const std::string& path, const ContentWriter& content) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (!file) return errno;
  ::fchmod(file.get(), 0444);  // whatever the umask says: a broker of several users reads it
  const int error = content(file.get());
  if (error != 0) ::unlink(path.c_str());
  return error;
}

bool is_full(int error) { return error == ENOSPC || error == EDQUOT || error == ENOMEM; }

bool has_size(const std::string& path, std::uint64_t size_bytes) {
  struct stat facts {};
  return ::stat(path.c_str(), &facts) == 0 &&
         static_cast<std::uint64_t>(facts.st_size) == size_bytes;
}

// A broker of another user does not take a link to a file that somebody else made.
bool is_mine(const std::string& path) {
  struct stat facts {};
  return ::stat(path.c_str(), &facts) == 0 && facts.st_uid == ::geteuid();
}

const std::string& folder_of(const BlobFolders& folders, BlobPlace place) {
  return place == BlobPlace::memory ? folders.memory : folders.disk;
}

// Empty: it has not been written.
std::string incoming_path(const BlobFolders& folders, const BlobSource& source) {
  if (source.place != BlobPlace::memory && source.place != BlobPlace::disk) return "";
  return folder_of(folders, source.place) + kIncoming + source.file;
}

}  // namespace

std::string BlobFolders::incoming_name(const BlobId& id, std::uint64_t number) const {
  return fmt::format("{}-{}.{}", to_hex(id), number, owner);
}

bool shares_folders(const BlobFolders& folders, const std::string& token) {
  if (folders.memory.empty() || folders.disk.empty() || token.empty()) return false;
  const Descriptor file(::open((folders.memory + "/token").c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return false;
  std::array<char, 256> text{};
  const ssize_t size = ::read(file.get(), text.data(), text.size());
  if (size < 0) return false;
  std::string_view said(text.data(), static_cast<std::size_t>(size));
  while (!said.empty() && said.back() == '\n') said.remove_suffix(1);
  return said == token && may_write(folders.memory) && may_write(folders.disk);
}

bool are_others(const BlobFolders& folders) {
  struct stat facts {};
  return ::stat(folders.memory.c_str(), &facts) == 0 && facts.st_uid != ::geteuid();
}

std::optional<BlobPlace> link_blob(const BlobFolders& folders, const BlobName& name,
                                   const std::string& file) {
  const std::string hex = to_hex(name.id);
  for (const BlobPlace place : {BlobPlace::memory, BlobPlace::disk, BlobPlace::memory}) {
    const std::string& folder = folder_of(folders, place);
    const std::string here = fmt::format("{}/{}", folder, hex);
    const std::string mine = fmt::format("{}{}{}", folder, kIncoming, file);
    if (!is_mine(here)) continue;
    if (::link(here.c_str(), mine.c_str()) != 0) continue;
    if (has_size(mine, name.size_bytes)) return place;
    ::unlink(mine.c_str());
  }
  return std::nullopt;
}

ContentWriter writer_of(std::span<const std::byte> content) {
  return [content](int descriptor) { return write_all(descriptor, content); };
}

bool has_room(const BlobFolders& folders, std::uint64_t size_bytes, bool may_use_memory) {
  return bytes_of(folders.disk).free >= size_bytes ||
         (may_use_memory && has_memory(folders.memory, size_bytes));
}

bool fits_at_all(const BlobFolders& folders, std::uint64_t size_bytes) {
  const std::uint64_t memory = bytes_of(folders.memory).all;
  return size_bytes <= bytes_of(folders.disk).all || size_bytes + memory / kSpareShare <= memory;
}

std::variant<BlobPlace, WriteFault> write_blob(const BlobFolders& folders, const BlobName& name,
                                               const std::string& file,
                                               const ContentWriter& content, bool may_use_memory) {
  const std::string incoming = kIncoming + file;
  int error = 0;
  if (may_use_memory && has_memory(folders.memory, name.size_bytes)) {
    error = write_file(folders.memory + incoming, content);
    if (error == 0) return BlobPlace::memory;
  }
  if (error != ESTALE) error = write_file(folders.disk + incoming, content);
  if (error == 0) return BlobPlace::disk;
  if (error == ESTALE) {
    return WriteFault{"the file changed while it was read; use it when it is complete", false};
  }
  const bool full = is_full(error);
  return WriteFault{
      fmt::format("a blob of {} bytes cannot be written to {}: {}{}", name.size_bytes, folders.disk,
                  std::strerror(error),
                  full ? "; free some space there or in " + folders.memory +
                             ", or start the broker with --blob-folder on another disk"
                       : ""),
      full};
}

bool is_incoming(const BlobFolders& folders, const BlobSource& source) {
  const std::string path = incoming_path(folders, source);
  return !path.empty() && has_size(path, source.name.size_bytes);
}

void discard_blob(const BlobFolders& folders, const BlobSource& source) {
  const std::string path = incoming_path(folders, source);
  if (!path.empty()) ::unlink(path.c_str());
}

// The broker moves blobs from the incoming folders to memory and from memory to disk: looked for in
// this order, one cannot slip by. Nor can one that it brings back.
std::optional<BlobFile::Opened> open_blob(const BlobFolders& folders, const BlobSource& source) {
  const std::string whole = "/" + to_hex(source.name.id);
  for (const std::string& path :
       {folders.memory + whole, incoming_path(folders, source), folders.memory + whole,
        folders.disk + whole, folders.memory + whole}) {
    if (path.empty()) continue;
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) return BlobFile::Opened{descriptor, 0};
  }
  return std::nullopt;
}

// --- Content of files

namespace {

// Reads a part of a file, as far as there is one, piece by piece into `take`. Returns errno, or 0.
template <typename Take>
int read_file(int descriptor, std::uint64_t offset, std::uint64_t size_bytes, const Take& take) {
  std::vector<std::byte> buffer(kReadBytes);
  while (size_bytes > 0) {
    const std::size_t most = std::min<std::uint64_t>(buffer.size(), size_bytes);
    const ssize_t size = ::pread(descriptor, buffer.data(), most, static_cast<off_t>(offset));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno;
    if (size == 0) return 0;
    const auto got = static_cast<std::size_t>(size);
    const int error = take(std::span(buffer.data(), got));
    if (error != 0) return error;
    offset += got;
    size_bytes -= got;
  }
  return 0;
}

}  // namespace

FileContent::FileContent(const std::string& path, std::uint64_t offset, std::uint64_t size_bytes)
    : path_(path),
      offset_(offset),
      size_bytes_(size_bytes),
      file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  struct stat facts {};
  if (!file_ || ::fstat(file_.get(), &facts) != 0) {
    throw invalid_call(fmt::format("{} cannot be read: {}", path, std::strerror(errno)));
  }
  if (S_ISDIR(facts.st_mode)) {
    throw invalid_call(path + " is a directory: name its files, or pack it into one (tar)");
  }
  if (!S_ISREG(facts.st_mode)) throw invalid_call(path + " is not a regular file");
  BlobDigest digest;
  const int error =
      read_file(file_.get(), offset_, size_bytes_, [&](std::span<const std::byte> piece) {
        digest.add(piece);
        return 0;
      });
  if (error != 0) {
    throw invalid_call(fmt::format("{} cannot be read: {}", path, std::strerror(error)));
  }
  name_ = digest.name();
}

ContentWriter FileContent::writer() const {
  return [this](int descriptor) {
    BlobDigest digest;
    const int error =
        read_file(file_.get(), offset_, size_bytes_, [&](std::span<const std::byte> piece) {
          digest.add(piece);
          return write_all(descriptor, piece);
        });
    if (error != 0) return error;
    return digest.name() == name_ ? 0 : ESTALE;
  };
}

BlobSource describe_file(const std::string& path, std::uint64_t offset, std::uint64_t size_bytes) {
  std::error_code failure;
  const std::string file = std::filesystem::absolute(path, failure).lexically_normal().string();
  struct stat facts {};
  if (failure || ::stat(file.c_str(), &facts) != 0 || ::access(file.c_str(), R_OK) != 0) {
    throw invalid_call(fmt::format("{} cannot be read: {}", path, std::strerror(errno)));
  }
  if (!S_ISREG(facts.st_mode)) throw invalid_call(path + " is not a regular file");
  if (file.size() > limits::kMaxPathBytes) throw invalid_call(path + ": the path is too long");
  const auto there = static_cast<std::uint64_t>(facts.st_size);
  const bool rest = size_bytes == std::numeric_limits<std::uint64_t>::max();
  if (offset > there || (!rest && size_bytes > there - offset)) {
    throw invalid_call(fmt::format("{} has {} bytes, fewer than were named", path, there));
  }
  const std::uint64_t size = rest ? there - offset : size_bytes;
  const std::string facts_text =
      fmt::format("{}\n{}\n{}\n{}\n{}.{:09}\n{}\n{}", file, facts.st_dev, facts.st_ino, there,
                  facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec, offset, size);
  const BlobId id = digest_of(std::as_bytes(std::span(facts_text)));
  return {{id, size}, BlobPlace::file, file, offset};
}

}  // namespace muster::detail
