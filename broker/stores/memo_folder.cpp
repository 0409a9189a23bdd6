// How a memo store takes its folder and finds again what is in it.
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <stdexcept>

#include "broker/stores/memo_file.hpp"
#include "broker/stores/memo_store.hpp"
#include "common/system/user_cache.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMostUnasked = std::uint64_t{10} << 30;
constexpr const char* kOwnPrefix = "stores-";
constexpr const char* kIncomingPrefix = "incoming-";
constexpr const char* kNoCache = "/tmp";

// Where this user's caches are; /tmp if there is no home.
std::string cache_folder() {
  const std::string cache = user_cache();
  return cache.empty() ? kNoCache : cache;
}

bool make_folders(const std::string& folder) {
  constexpr int kTries = 20;  // somebody removes folders above it, which are empty
  std::error_code error;
  for (int i = 0; i < kTries; ++i) {
    fs::create_directories(fs::path(folder).parent_path(), error);
    if (::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) {
      return ::access(folder.c_str(), R_OK | W_OK | X_OK) == 0;
    }
    if (errno != ENOENT) return false;
  }
  return false;
}

Descriptor lock_of(const std::string& folder, int flags) {
  Descriptor lock(
      ::open((folder + "/lock").c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600));
  if (lock && ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    lock.reset();
    errno = error;
  }
  return lock;
}

// What brokers left that were killed.
void remove_abandoned(const std::string& parent) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, error)) {
    if (!entry.path().filename().string().starts_with(kOwnPrefix)) continue;
    if (lock_of(entry.path().string(), 0)) remove_folder(entry.path().string());
  }
}

bool is_value_name(const std::string& name) {
  return name.size() == 32 + 1 + 16 && name[32] == '.' &&
         name.find_first_not_of("0123456789abcdef.") == std::string::npos;
}

}  // namespace

void remove_folder(const std::string& folder) {
  std::error_code ignored;
  if (!folder.empty()) fs::remove_all(folder, ignored);
}

void remove_empty_folder(const std::string& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.is_directory(ignored)) ::rmdir(entry.path().c_str());  // refuses one with files
  }
  ::unlink((folder + "/lock").c_str());
  ::rmdir(folder.c_str());
}

Digest begin_digest() {
  Digest state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  return state;
}

bool add_to_digest(const Digest& digest, int file, std::uint64_t size_bytes) {
  std::vector<char> buffer(std::size_t{256} << 10);
  for (std::uint64_t offset = 0; offset < size_bytes;) {
    const auto piece =
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), size_bytes - offset));
    if (!read_all(file, buffer.data(), piece, offset)) return false;
    XXH3_128bits_update(digest.get(), buffer.data(), piece);
    offset += piece;
  }
  return true;
}

bool has_digest(int file, const MemoFileEnd& end) {
  const Digest state = begin_digest();
  if (!add_to_digest(state, file, end.content_bytes)) return false;
  const XXH128_hash_t digest = XXH3_128bits_digest(state.get());
  return digest.high64 == end.digest_high && digest.low64 == end.digest_low;
}

MemoStore::MemoStore(const MemoOptions& options)
    : own_(options.folder.empty()),
      limit_bytes_(options.limit_bytes),
      limit_items_(options.limit_items) {
  if (own_) {
    make_own_folder();
  } else {
    take_folder(options.folder);
  }
  std::random_device random;
  incoming_ = fmt::format("{}/{}{:08x}{:08x}", folder_, kIncomingPrefix, random(), random());
  if (limit_bytes_ == 0) {
    std::error_code error;
    const std::uintmax_t free_bytes = fs::space(folder_, error).available;
    limit_bytes_ = error ? kMostUnasked : std::min<std::uint64_t>(free_bytes / 4, kMostUnasked);
  }
  read_index();
  if (::mkdir(incoming_.c_str(), 0700) != 0) {
    throw std::runtime_error(fmt::format("cannot make the folder {}: {}; choose another --spool",
                                         incoming_, std::strerror(errno)));
  }
}

void MemoStore::take_folder(const std::string& folder) {
  std::error_code ignored;
  folder_ = fs::absolute(folder, ignored).lexically_normal().string();
  while (folder_.size() > 1 && folder_.ends_with('/')) folder_.pop_back();
  if (!make_folders(folder_)) {
    throw std::runtime_error(fmt::format("--spool {}: {}; choose a folder that you may write to",
                                         folder_, std::strerror(errno)));
  }
  lock_ = lock_of(folder_, O_CREAT);
  if (lock_) return;
  if (errno == EWOULDBLOCK) {
    throw std::runtime_error(
        fmt::format("--spool {}: another broker uses this folder; connect to that one, or choose "
                    "another folder",
                    folder_));
  }
  throw std::runtime_error(fmt::format("--spool {}: cannot lock it: {}; choose another folder",
                                       folder_, std::strerror(errno)));
}

void MemoStore::make_own_folder() {
  std::random_device random;
  for (const std::string& parent : {cache_folder(), std::string(kNoCache)}) {
    std::error_code ignored;
    fs::create_directories(parent, ignored);
    remove_abandoned(parent);
    own_top_ = parent == kNoCache ? "" : parent;
    folder_ = fmt::format("{}/{}{:08x}{:08x}", parent, kOwnPrefix, random(), random());
    if (make_folders(folder_) && (lock_ = lock_of(folder_, O_CREAT))) return;
  }
  throw std::runtime_error(
      fmt::format("no folder for stored values: {}: {}; start the broker with "
                  "--spool DIR",
                  folder_, std::strerror(errno)));
}

// What a file of the folder says of itself.
struct MemoStore::Indexed {
  MemoName name;
  Entry entry;
};

void MemoStore::read_index() {
  std::vector<Indexed> found;
  std::error_code error;
  for (const fs::directory_entry& part : fs::directory_iterator(folder_, error)) {
    const std::string name = part.path().filename().string();
    if (name.starts_with(kIncomingPrefix)) remove_folder(part.path().string());
    if (name.size() != 2 || !part.is_directory(error)) continue;
    for (const fs::directory_entry& file : fs::directory_iterator(part.path(), error)) {
      if (auto indexed = read_entry(file.path().string())) found.push_back(std::move(*indexed));
    }
  }
  std::sort(found.begin(), found.end(), [](const Indexed& left, const Indexed& right) {
    return std::pair(left.entry.accessed_ms, left.entry.version) <
           std::pair(right.entry.accessed_ms, right.entry.version);
  });
  for (const Indexed& indexed : found) {
    last_version_ = std::max(last_version_, indexed.entry.version);
    const auto known = entries_.find(indexed.name);  // a put was cut off before it removed the old
    if (known != entries_.end() && known->second.version > indexed.entry.version) {
      ::unlink(path_of(indexed.name, indexed.entry.version).c_str());
    } else {
      add(indexed.name, indexed.entry);
    }
  }
  make_room(0);
}

std::optional<MemoStore::Indexed> MemoStore::read_entry(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  if (!is_value_name(name)) return std::nullopt;  // not ours
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    report_damage(path, "it cannot be read");
    return std::nullopt;
  }
  const auto end = read_end(file.get(), static_cast<std::uint64_t>(status.st_size));
  Indexed indexed;
  indexed.entry.version = std::strtoull(name.c_str() + 33, nullptr, 16);
  if (!end || path_of(end->name, indexed.entry.version) != path) {
    report_damage(path, "it is not as it was written");
    return std::nullopt;
  }
  indexed.name = end->name;
  indexed.entry.size_bytes = end->content_bytes;
  indexed.entry.accessed_ms = indexed.entry.touched_ms =
      static_cast<std::uint64_t>(std::max<std::int64_t>(0, status.st_mtim.tv_sec)) * 1000 +
      static_cast<std::uint64_t>(status.st_mtim.tv_nsec / 1'000'000);
  return indexed;
}

}  // namespace muster
