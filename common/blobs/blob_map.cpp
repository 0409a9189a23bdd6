// Maps of blobs: one per file, part and process, however many handles there are.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <compare>
#include <cstring>
#include <map>
#include <muster/blob.hpp>
#include <mutex>
#include <utility>

#include "common/protocol/ids.hpp"
#include "common/system/descriptor.hpp"

namespace muster::detail {
namespace {

// A part of a file. Its inode is not used again while a map of it lives.
struct Part {
  dev_t device = 0;
  ino_t inode = 0;
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes the 0 behind `<` for a pointer
  auto operator<=>(const Part&) const = default;
};

class Mapping;

// The maps that live. Shared by them, because some outlive the statics at the end of a process.
struct Mappings {
  std::mutex mutex;
  std::map<Part, std::weak_ptr<Mapping>> entries;  // guarded by `mutex`, as each BlobFile's map is
};

class Mapping {
 public:
  Mapping(void* start, std::size_t length) : start_(start), length_(length) {}
  ~Mapping() {
    ::munmap(start_, length_);
    if (!listed_) return;
    const std::lock_guard lock(listed_->mutex);
    const auto found = listed_->entries.find(part_);
    // Another map of the part may have taken the place meanwhile.
    if (found != listed_->entries.end() && found->second.expired()) listed_->entries.erase(found);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* content(std::uint64_t skipped_bytes) const {
    return static_cast<std::byte*>(start_) + skipped_bytes;
  }
  void list(std::shared_ptr<Mappings> mappings, const Part& part) {
    listed_ = std::move(mappings);
    part_ = part;
  }

 private:
  void* const start_;
  const std::size_t length_;
  std::shared_ptr<Mappings> listed_;
  Part part_;
};

std::string name_of(const BlobFile& file) {
  return fmt::format("blob {}", to_hex(BlobId{file.high, file.low}));
}

struct Source {
  Descriptor descriptor;
  Part part;
};

// Opens the file and makes sure that all of the content is there: touching a page of a map beyond
// the end of its file would end the process.
Source open_whole(const BlobFile& file) {
  const BlobFile::Opened opened = file.open();
  Source source{Descriptor(opened.descriptor), {0, 0, opened.offset_bytes, file.size_bytes}};
  struct stat facts {};
  if (::fstat(opened.descriptor, &facts) != 0) {
    throw BlobError(
        fmt::format("{}: its file cannot be read: {}", name_of(file), std::strerror(errno)));
  }
  const auto there = static_cast<std::uint64_t>(facts.st_size);
  if (there < opened.offset_bytes || there - opened.offset_bytes < file.size_bytes) {
    throw BlobError(fmt::format(
        "{}: its file has {} bytes, where {} were to follow the first {}: something other than "
        "Muster changed it; run the job again",
        name_of(file), there, file.size_bytes, opened.offset_bytes));
  }
  source.part.device = facts.st_dev;
  source.part.inode = facts.st_ino;
  return source;
}

std::uint64_t skipped(const Part& part) {
  return part.offset_bytes % static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// Neither populated nor advised: read maps of tmpfs come to the same time with and without, and who
// reads a part pays for a part.
std::shared_ptr<Mapping> map(const BlobFile& file, const Source& source, int protection,
                             int flags) {
  const std::uint64_t before = skipped(source.part);
  const std::size_t length = source.part.size_bytes + before;
  void* start = ::mmap(nullptr, length, protection, flags, source.descriptor.get(),
                       static_cast<off_t>(source.part.offset_bytes - before));
  if (start == MAP_FAILED) {
    throw BlobError(
        fmt::format("{}: its {} bytes cannot be mapped: {}; does a limit of the address "
                    "space (ulimit -v) leave room for them?",
                    name_of(file), file.size_bytes, std::strerror(errno)));
  }
  return std::make_shared<Mapping>(start, length);
}

}  // namespace

Bytes BlobFile::map_shared() const {
  static const auto kMappings = std::make_shared<Mappings>();
  if (size_bytes == 0) return {};
  std::shared_ptr<Mapping> mapping;  // its end takes the lock
  std::unique_lock lock(kMappings->mutex);
  if (map_ != nullptr) return {map_, content_};
  lock.unlock();
  const Source source = open_whole(*this);
  lock.lock();
  if (map_ != nullptr) return {map_, content_};
  const auto found = kMappings->entries.find(source.part);
  if (found != kMappings->entries.end()) mapping = found->second.lock();
  if (mapping == nullptr) {
    mapping = map(*this, source, PROT_READ, MAP_SHARED);
    kMappings->entries.insert_or_assign(source.part, mapping);
    mapping->list(kMappings, source.part);
  }
  content_ = {mapping->content(skipped(source.part)), size_bytes};
  map_ = mapping;
  return {map_, content_};
}

std::shared_ptr<std::byte> BlobFile::map_private() const {
  if (size_bytes == 0) return nullptr;
  const Source source = open_whole(*this);
  std::shared_ptr<Mapping> mapping =
      map(*this, source, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
  std::byte* content = mapping->content(skipped(source.part));
  return {std::move(mapping), content};
}

}  // namespace muster::detail
