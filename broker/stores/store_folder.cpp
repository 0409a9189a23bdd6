#include "broker/stores/store_folder.hpp"

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

#include "broker/stores/value_file.hpp"
#include "common/blobs/folder_claim.hpp"
#include "common/system/user_cache.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOwnPrefix = "stores-";
constexpr const char* kIncomingPrefix = "incoming-";
constexpr const char* kNoCache = "/tmp";

// Where this user's caches are; /tmp if there is no home.
std::string cache_folder() {
  const std::string cache = user_cache();
  return cache.empty() ? kNoCache : cache;
}

// What is in it; what ended the listing too early is in `error`.
std::vector<fs::path> entries_of(const std::string& folder, std::error_code& error) {
  std::vector<fs::path> paths;
  fs::directory_iterator entry(folder, error);
  while (!error && entry != fs::directory_iterator()) {
    paths.push_back(entry->path());
    entry.increment(error);
  }
  return paths;
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

// With all that is in it.
void remove_folder(const std::string& folder) {
  std::error_code ignored;
  if (!folder.empty()) fs::remove_all(folder, ignored);
}

// Of a store without values.
void remove_empty_folder(const std::string& folder) {
  std::error_code ignored;
  for (const fs::path& entry : entries_of(folder, ignored)) {
    if (fs::is_directory(entry, ignored)) ::rmdir(entry.c_str());  // refuses one with files
  }
  ::unlink((folder + "/lock").c_str());
  ::rmdir(folder.c_str());
}

// What brokers left that were killed.
void remove_abandoned(const std::string& parent) {
  std::error_code ignored;
  for (const fs::path& entry : entries_of(parent, ignored)) {
    if (!entry.filename().string().starts_with(kOwnPrefix)) continue;
    if (lock_of(entry.string(), 0)) remove_folder(entry.string());
  }
}

bool is_value_name(const std::string& name) {
  return name.size() == 32 + 1 + 16 && name[32] == '.' &&
         name.find_first_not_of("0123456789abcdef.") == std::string::npos;
}

}  // namespace

StoreFolder::StoreFolder(const std::string& folder) : own_(folder.empty()) {
  if (own_) {
    make_own();
  } else {
    take(folder);
  }
  std::random_device random;
  incoming_ = fmt::format("{}/{}{:08x}{:08x}", path_, kIncomingPrefix, random(), random());
}

// In `incoming` nothing is worth keeping; a folder without values neither.
StoreFolder::~StoreFolder() {
  remove_folder(own_ ? path_ : incoming_);
  if (own_) remove_empty_folders(path_.substr(0, path_.rfind('/')), own_top_);
  if (!own_ && !is_wanted_) remove_empty_folder(path_);
}

void StoreFolder::make_incoming() {
  if (::mkdir(incoming_.c_str(), 0700) == 0) return;
  throw std::runtime_error(fmt::format("cannot make the folder {}: {}; choose another --spool",
                                       incoming_, std::strerror(errno)));
}

void StoreFolder::take(const std::string& folder) {
  std::error_code ignored;
  path_ = fs::absolute(folder, ignored).lexically_normal().string();
  while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
  if (!make_folders(path_)) {
    throw std::runtime_error(fmt::format("--spool {}: {}; choose a folder that you may write to",
                                         path_, std::strerror(errno)));
  }
  lock_ = lock_of(path_, O_CREAT);
  if (lock_) return;
  if (errno == EWOULDBLOCK) {
    throw std::runtime_error(
        fmt::format("--spool {}: another broker uses this folder; connect to that one, or choose "
                    "another folder",
                    path_));
  }
  throw std::runtime_error(fmt::format("--spool {}: cannot lock it: {}; choose another folder",
                                       path_, std::strerror(errno)));
}

void StoreFolder::make_own() {
  std::random_device random;
  for (const std::string& parent : {cache_folder(), std::string(kNoCache)}) {
    std::error_code ignored;
    fs::create_directories(parent, ignored);
    remove_abandoned(parent);
    own_top_ = parent == kNoCache ? "" : parent;
    path_ = fmt::format("{}/{}{:08x}{:08x}", parent, kOwnPrefix, random(), random());
    if (make_folders(path_) && (lock_ = lock_of(path_, O_CREAT))) return;
  }
  throw std::runtime_error(
      fmt::format("no folder for stored values: {}: {}; start the broker with "
                  "--spool DIR",
                  path_, std::strerror(errno)));
}

std::vector<StoreFolder::Value> StoreFolder::read() {
  std::vector<Value> values;
  std::error_code error;
  for (const fs::path& part : entries_of(path_, error)) {
    const std::string name = part.filename().string();
    if (name.starts_with(kIncomingPrefix)) remove_folder(part.string());
    std::error_code ignored;
    if (name.size() != 2 || !fs::is_directory(part, ignored)) continue;
    std::error_code unlisted;
    for (const fs::path& file : entries_of(part.string(), unlisted)) {
      read_file(file.string(), values);
    }
    if (unlisted) spdlog::warn("cannot list {}: {}", part.string(), unlisted.message());
  }
  if (error) {
    throw std::runtime_error(
        fmt::format("the folder of stored values {} cannot be listed: {}", path_, error.message()));
  }
  if (unread_ > 0) {
    spdlog::warn(
        "{} stored values cannot be read now ({}): they stay in {}, and a broker that is "
        "started later finds them",
        unread_, unread_reason_, path_);
  }
  std::sort(values.begin(), values.end(), [](const Value& left, const Value& right) {
    return std::pair(left.accessed_ms, left.version) < std::pair(right.accessed_ms, right.version);
  });
  return values;
}

void StoreFolder::read_file(const std::string& path, std::vector<Value>& values) {
  const std::string name = path.substr(path.rfind('/') + 1);
  if (!is_value_name(name)) return;  // not ours
  Value value;
  value.version = std::strtoull(name.c_str() + 33, nullptr, 16);
  last_version_ = std::max(last_version_, value.version);
  Descriptor file;
  struct stat status {};
  ValueFileEnd end;
  int error = open_value(path, file, status, end);
  if (error == 0 && path_of(end.name, value.version) != path) error = kNotAsWritten;
  if (is_damage(error)) return remove_damaged(path, describe_value_error(error));
  if (error != 0) {
    ++unread_;
    unread_reason_ = describe_value_error(error);
    return;
  }
  value.name = end.name;
  value.size_bytes = end.content_bytes;
  value.accessed_ms =
      static_cast<std::uint64_t>(std::max<std::int64_t>(0, status.st_mtim.tv_sec)) * 1000 +
      static_cast<std::uint64_t>(status.st_mtim.tv_nsec / 1'000'000);
  values.push_back(std::move(value));
}

std::string StoreFolder::path_of(const ValueName& name, std::uint64_t version) const {
  std::string text = name.store;
  text.push_back('\0');
  text += name.key;
  const XXH128_hash_t digest = XXH3_128bits(text.data(), text.size());
  const std::string hex = fmt::format("{:016x}{:016x}", digest.high64, digest.low64);
  return fmt::format("{}/{}/{}.{:016x}", path_, hex.substr(0, 2), hex, version);
}

void StoreFolder::remove_damaged(const std::string& path, const std::string& why) {
  ++damaged_;
  spdlog::warn("the stored value {} is left out: {}", path, why);
  ::unlink(path.c_str());
}

}  // namespace muster
