#include "broker/stores/value_store.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "broker/stores/value_file.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

constexpr std::uint64_t kMostUnasked = std::uint64_t{10} << 30;

// How often a file's time follows the accesses to it.
constexpr std::uint64_t kTouchEveryMs = 60'000;

std::uint64_t unix_ms() {
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, duration_cast<milliseconds>(since).count()));
}

void set_time(const std::string& path, std::uint64_t accessed_ms) {
  const timespec time{static_cast<time_t>(accessed_ms / 1000),
                      static_cast<long>(accessed_ms % 1000) * 1'000'000};
  const timespec times[2] = {time, time};
  ::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW);
}

std::string said_by(const char* what, const std::string& path, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    return fmt::format(
        "no room on the disk for '{}': make some, or give the broker a smaller "
        "--store-limit or another --spool",
        path);
  }
  return fmt::format("cannot {} '{}': {}", what, path, std::strerror(error));
}

}  // namespace

ValueStore::ValueStore(const StoreOptions& options)
    : folder_(options.folder),
      limit_bytes_(options.limit_bytes),
      limit_items_(options.limit_items) {
  if (limit_bytes_ == 0) {
    std::error_code error;
    const std::uintmax_t free_bytes = std::filesystem::space(folder_.path(), error).available;
    limit_bytes_ = error ? kMostUnasked : std::min<std::uint64_t>(free_bytes / 4, kMostUnasked);
  }
  read_index();
  folder_.make_incoming();
}

ValueStore::~ValueStore() {
  if (entries_.empty()) folder_.leave_nothing();
}

void ValueStore::read_index() {
  for (const StoreFolder::Value& value : folder_.read()) {
    const auto known = entries_.find(value.name);  // a put was cut off before it removed the old
    if (known != entries_.end() && known->second.version > value.version) {
      ::unlink(folder_.path_of(value.name, value.version).c_str());
      continue;
    }
    Entry entry;
    entry.size_bytes = value.size_bytes;
    entry.version = value.version;
    entry.accessed_ms = entry.touched_ms = value.accessed_ms;
    add(value.name, entry);
  }
  last_version_ = folder_.last_version();
  make_room(0);
}

// --- Finding ------------------------------------------------------------------------------------

std::optional<ValueStore::Found> ValueStore::look_at(const ValueName& name) {
  const auto found = entries_.find(name);
  Descriptor file;
  return found == entries_.end() ? std::nullopt : open(name, found, file);
}

// Drops a value that is not as it was written. Nothing either while it cannot be read.
std::optional<ValueStore::Found> ValueStore::open(const ValueName& name, Entries::iterator found,
                                                  Descriptor& file) {
  Entry& entry = found->second;
  const std::string path = folder_.path_of(name, entry.version);
  struct stat status {};
  ValueFileEnd end;
  int error = open_value(path, file, status, end);
  if (error == 0 && (end.name != name || end.content_bytes != entry.size_bytes)) {
    error = kNotAsWritten;
  }
  if (error == 0 && !entry.checked) error = check_digest(file.get(), end);
  if (is_damage(error)) {
    folder_.remove_damaged(path, describe_value_error(error));
    drop(found);
    return std::nullopt;
  }
  if (error != 0) {
    if (std::has_single_bit(++unreadable_)) {  // it may be asked for all the time
      spdlog::warn("the stored value {} cannot be read now: {} ({} such so far)", path,
                   describe_value_error(error), unreadable_);
    }
    return std::nullopt;
  }
  entry.checked = true;
  return Found{entry.size_bytes, entry.version, std::move(end.text), path, {}};
}

std::optional<ValueStore::Found> ValueStore::find(const ValueName& name) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  Entry& entry = found->second;
  Descriptor file;
  std::optional<Found> answer = open(name, found, file);
  if (!answer) return std::nullopt;
  if (entry.size_bytes > 0 && entry.size_bytes <= kStorePieceBytes) {
    auto buffer = std::make_shared_for_overwrite<std::byte[]>(entry.size_bytes);
    if (read_all(file.get(), buffer.get(), entry.size_bytes, 0) != 0) return std::nullopt;
    const std::span<const std::byte> view(buffer.get(), entry.size_bytes);
    answer->value = Bytes(std::move(buffer), view);
  }
  ++entry.hits;
  entry.accessed_ms = std::max(entry.accessed_ms, unix_ms());
  order_.splice(order_.end(), order_, entry.place);
  if (entry.accessed_ms - entry.touched_ms >= kTouchEveryMs) {
    entry.touched_ms = entry.accessed_ms;
    set_time(answer->file, entry.accessed_ms);
  }
  return answer;
}

std::optional<Bytes> ValueStore::read(const ValueName& name, std::uint64_t version,
                                      std::uint64_t offset, std::size_t size_bytes) {
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second.version != version ||
      size_bytes > kStorePieceBytes || offset > found->second.size_bytes ||
      size_bytes > found->second.size_bytes - offset) {
    return std::nullopt;
  }
  const std::string path = folder_.path_of(name, version);
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  auto buffer = std::make_shared_for_overwrite<std::byte[]>(size_bytes);
  if (!file || read_all(file.get(), buffer.get(), size_bytes, offset) != 0) return std::nullopt;
  const std::span<const std::byte> view(buffer.get(), size_bytes);
  return Bytes(std::move(buffer), view);
}

// --- Putting ------------------------------------------------------------------------------------

ValueStore::Upload::~Upload() {
  store_.arriving_bytes_ -= received_bytes_;
  if (!path_.empty()) ::unlink(path_.c_str());
}

std::string ValueStore::Upload::append(std::span<const std::byte> piece) {
  if (piece.size() > size_bytes_ - received_bytes_) return "a value of more bytes than announced";
  if (piece.size() > store_.limit_bytes_ - std::min(store_.limit_bytes_, store_.arriving_bytes_)) {
    return "more is on its way at once than the store may hold: start the broker with a larger "
           "--store-limit";
  }
  if (const int error = write_all(file_.get(), piece.data(), piece.size())) {
    return said_by("write", path_, error);
  }
  XXH3_128bits_update(digest_.get(), piece.data(), piece.size());
  received_bytes_ += piece.size();
  store_.arriving_bytes_ += piece.size();
  return "";
}

std::string ValueStore::begin(std::uint64_t size_bytes, std::unique_ptr<Upload>& upload) {
  if (std::string error = make_room(size_bytes); !error.empty()) return error;
  upload.reset(new Upload(*this));
  upload->path_ = fmt::format("{}/.{}", folder_.incoming(), ++last_file_);
  upload->size_bytes_ = size_bytes;
  upload->file_.reset(
      ::open(upload->path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (upload->file_) return "";
  const int error = errno;
  std::string path = std::exchange(upload->path_, "");
  upload.reset();
  return said_by("write", path, error);
}

std::string ValueStore::finish(const ValueName& name, const std::string& text, Upload& upload) {
  if (upload.received_bytes_ != upload.size_bytes_) return "a value of fewer bytes than announced";
  return publish(name, text, upload);
}

std::string ValueStore::put(const ValueName& name, const std::string& text, const Bytes& value) {
  std::unique_ptr<Upload> upload;
  std::string error = begin(value.size(), upload);
  if (error.empty()) error = upload->append(value.span());
  return error.empty() ? finish(name, text, *upload) : error;
}

std::string ValueStore::adopt(const ValueName& name, const std::string& text,
                              const std::string& file, std::uint64_t size_bytes) {
  if (file.empty() || file.front() == '.' || file.find('/') != std::string::npos) {
    return "a file for a put is named without its folder";
  }
  Upload upload(*this);
  upload.path_ = fmt::format("{}/{}", folder_.incoming(), file);
  upload.size_bytes_ = size_bytes;
  upload.file_.reset(::open(upload.path_.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status {};
  if (!upload.file_ || ::fstat(upload.file_.get(), &status) != 0) {
    return said_by("open", upload.path_, errno);
  }
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != size_bytes) {
    return fmt::format("'{}' is not a file of {} bytes", upload.path_, size_bytes);
  }
  if (size_bytes > limit_bytes_) return make_room(size_bytes);  // and nothing is read
  if (add_to_digest(upload.digest_, upload.file_.get(), size_bytes) != 0 ||
      ::lseek(upload.file_.get(), static_cast<off_t>(size_bytes), SEEK_SET) < 0) {
    return fmt::format("'{}' cannot be read", upload.path_);
  }
  upload.received_bytes_ = size_bytes;
  arriving_bytes_ += size_bytes;
  return publish(name, text, upload);
}

// The value is there then, or not. Others may have come since it began: there is to be room now.
std::string ValueStore::publish(const ValueName& name, const std::string& text, Upload& upload) {
  if (std::string error = make_room(upload.size_bytes_); !error.empty()) return error;
  const XXH128_hash_t digest = XXH3_128bits_digest(upload.digest_.get());
  const std::string end = encode_end({name, text, upload.size_bytes_, digest.high64, digest.low64});
  if (const int error = write_all(upload.file_.get(), end.data(), end.size())) {
    return said_by("write", upload.path_, error);
  }
  Entry entry;
  entry.size_bytes = upload.size_bytes_;
  entry.version = ++last_version_;
  entry.accessed_ms = entry.touched_ms = unix_ms();
  entry.checked = true;
  const std::string path = folder_.path_of(name, entry.version);
  ::mkdir(path.substr(0, path.rfind('/')).c_str(), 0700);
  ::fchmod(upload.file_.get(), 0400);  // nobody changes it by mistake
  if (::rename(upload.path_.c_str(), path.c_str()) != 0) return said_by("make", path, errno);
  upload.path_.clear();
  add(name, entry);
  return "";
}

void ValueStore::add(const ValueName& name, const Entry& entry) {
  const auto old = entries_.find(name);
  if (old != entries_.end()) drop(old);
  const auto made = entries_.emplace(name, entry).first;
  made->second.place = order_.insert(order_.end(), made);
  bytes_ += entry.size_bytes;
}

std::string ValueStore::make_room(std::uint64_t size_bytes) {
  if (size_bytes > limit_bytes_) {
    return fmt::format(
        "a value of {} bytes is larger than all that the store may hold, {}: start "
        "the broker with a larger --store-limit",
        size_bytes, limit_bytes_);
  }
  while (!order_.empty() && (bytes_ > limit_bytes_ - size_bytes || items() >= limit_items_)) {
    drop(order_.front());
    ++evicted_;
  }
  return "";
}

// --- Removing -----------------------------------------------------------------------------------

void ValueStore::drop(Entries::iterator entry) {
  ::unlink(folder_.path_of(entry->first, entry->second.version).c_str());
  bytes_ -= entry->second.size_bytes;
  order_.erase(entry->second.place);
  entries_.erase(entry);
}

void ValueStore::remove(const ValueName& name) {
  const auto found = entries_.find(name);
  if (found != entries_.end()) drop(found);
}

void ValueStore::remove_all(const std::string& store, const std::string& prefix) {
  auto entry = entries_.lower_bound({store, prefix});
  while (entry != entries_.end() && entry->first.store == store &&
         entry->first.key.starts_with(prefix)) {
    drop(entry++);
  }
}

std::uint64_t ValueStore::trim(const std::string& store, const StoreLimits& limits) {
  std::uint64_t bytes = 0;
  std::uint64_t items = 0;
  for (auto entry = entries_.lower_bound({store, ""});
       entry != entries_.end() && entry->first.store == store; ++entry) {
    bytes += entry->second.size_bytes;
    ++items;
  }
  const std::uint64_t now_ms = unix_ms();
  const std::uint64_t oldest_ms = limits.age_ms > now_ms ? 0 : now_ms - limits.age_ms;
  std::uint64_t gone = 0;
  for (auto place = order_.begin(); place != order_.end();) {
    const Entries::iterator entry = *place++;
    if (entry->first.store != store) continue;
    if (bytes <= limits.bytes && items <= limits.items && entry->second.accessed_ms >= oldest_ms) {
      break;
    }
    bytes -= entry->second.size_bytes;
    --items;
    ++gone;
    drop(entry);
  }
  return gone;
}

std::vector<StoreEntry> ValueStore::list(const ValueName& after, const std::string& prefix) const {
  std::vector<StoreEntry> rows;
  auto entry = after.key < prefix ? entries_.lower_bound({after.store, prefix})
                                  : entries_.upper_bound(after);
  if (after.key.empty()) entry = entries_.lower_bound({after.store, prefix});
  for (; entry != entries_.end() && entry->first.store == after.store &&
         entry->first.key.starts_with(prefix) && rows.size() < limits::kMaxStoreEntries;
       ++entry) {
    const Entry& e = entry->second;
    rows.push_back({entry->first.key, e.size_bytes, e.accessed_ms, e.hits});
  }
  return rows;
}

}  // namespace muster
