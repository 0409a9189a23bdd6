#include "common/blobs/folder_claim.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "common/blobs/owner_mark.hpp"

namespace muster {
namespace {

constexpr const char* kLock = "lock";
constexpr std::time_t kLastingSeconds = 600;
// A folder that another machine or an earlier boot locked: flock says nothing reliable about it.
constexpr std::time_t kForeignSeconds = 7 * 24 * 3600;

// "BOOT HOST lasting": who locked a folder.
struct Owner {
  std::string boot;
  std::string host;
  bool lasting = false;
};

Owner this_machine() {
  Owner owner;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> owner.boot;
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) == 0) owner.host = name.data();
  if (owner.boot.empty()) owner.boot = "unknown";
  if (owner.host.empty()) owner.host = "unknown";
  return owner;
}

Owner read_owner(int lock) {
  std::array<char, 512> text{};
  const ssize_t size = pread(lock, text.data(), text.size() - 1, 0);
  Owner owner;
  if (size <= 0) return owner;
  const std::string line(text.data(), static_cast<std::size_t>(size));
  const std::size_t first = line.find(' ');
  const std::size_t second = line.find(' ', first + 1);
  if (first == std::string::npos || second == std::string::npos) return owner;
  owner.boot = line.substr(0, first);
  owner.host = line.substr(first + 1, second - first - 1);
  owner.lasting = line.compare(second + 1, 7, "lasting") == 0;
  return owner;
}

[[noreturn]] void fail(const std::string& what, const std::string& path, const char* advice) {
  throw std::runtime_error(
      fmt::format("{} '{}': {}; {}", what, path, std::strerror(errno), advice));
}

// Another user who could put files there could put them in front of ours.
void check_safe(const std::string& path, const struct stat& status) {
  const bool is_ours = status.st_uid == geteuid();
  if (S_ISDIR(status.st_mode) && (is_ours || status.st_uid == 0) &&
      ((status.st_mode & S_IWOTH) == 0 || (status.st_mode & S_ISVTX) != 0)) {
    return;
  }
  throw std::runtime_error(fmt::format(
      "'{}' (owner {}, mode {:04o}) is not a folder that only this user ({}) can change: remove "
      "it, or name another one",
      path, status.st_uid, status.st_mode & 07777U, geteuid()));
}

// In a folder where everybody may make files (/dev/shm, /tmp) anybody can have made one of our name
// beforehand: it has to be a folder of ours that nobody else can change, and no link to one.
void check_not_planted(const std::string& path) {
  struct stat above {};
  struct stat status {};
  const std::string parent = std::filesystem::path(path).parent_path();
  if (stat(parent.c_str(), &above) != 0 || (above.st_mode & S_IWOTH) == 0) return;
  if (lstat(path.c_str(), &status) != 0) return;
  const bool is_ours = S_ISDIR(status.st_mode) && status.st_uid == geteuid() &&
                       (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
  if (is_ours) return;
  throw std::runtime_error(fmt::format(
      "'{}' ({}, owner {}, mode {:04o}) is not a folder that only this user ({}) can change, and "
      "everybody can make one in '{}': find out who did, and remove it",
      path,
      S_ISDIR(status.st_mode)   ? "a folder"
      : S_ISLNK(status.st_mode) ? "a symbolic link"
                                : "no folder",
      status.st_uid, status.st_mode & 07777U, geteuid(), parent));
}

// False: somebody has just removed the folder above it, which was empty.
bool make_folder(const std::string& path, bool group) {
  const mode_t mode = group ? 0750 : 0700;
  if (mkdir(path.c_str(), mode) == 0) {
    chmod(path.c_str(), mode);  // whatever the umask says
  } else if (errno == ENOENT) {
    return false;
  } else if (errno != EEXIST) {
    fail("cannot make the folder", path, "choose one that you may write to");
  }
  return true;
}

// False: somebody has just removed one of them.
bool make_folders(const std::filesystem::path& path, bool group) {
  std::error_code ignored;
  const std::filesystem::path parent = path.parent_path();
  if (!parent.empty() && parent != path && !std::filesystem::exists(parent, ignored) &&
      !make_folders(parent, group)) {
    return false;
  }
  if (!make_folder(path, group)) return false;
  struct stat status {};
  if (!parent.empty() && stat(parent.c_str(), &status) == 0) check_safe(parent, status);
  if (lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return false;
    fail("cannot look at the folder", path, "try again");
  }
  check_safe(path, status);
  return true;
}

// Another process may hold it for a moment, to see whether it can.
bool take_lock(int descriptor) {
  constexpr int kTries = 50;
  constexpr std::chrono::milliseconds kPause{5};
  for (int i = 0; i < kTries; ++i) {
    if (i > 0) std::this_thread::sleep_for(kPause);
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return true;
  }
  return false;
}

bool is_same(int descriptor, const std::string& path) {
  struct stat held {};
  struct stat named {};
  return fstat(descriptor, &held) == 0 && lstat(path.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

// Whether a folder holds nothing that its owner could go on with.
bool is_bare(const std::string& path) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    std::error_code unknown;
    const bool is_empty = std::filesystem::is_empty(entry->path(), unknown) && !unknown;
    if (name != kLock && name != "token" && name != kOwnersFolder && !is_empty) return false;
  }
  return !error;
}

// Whether nobody owns the folder any more; `lock` is locked then.
bool is_dead(const std::string& path, int lock, const Owner& here) {
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) return false;
  const Owner owner = read_owner(lock);
  struct stat status {};
  if (owner.boot.empty() || fstat(lock, &status) != 0) return false;
  const std::time_t age = std::time(nullptr) - status.st_mtime;
  if (owner.boot == here.boot) {
    const bool is_awaited = owner.lasting && (age <= kLastingSeconds || has_living_owner(path));
    return !is_awaited || is_bare(path);
  }
  return owner.host == here.host || age > kForeignSeconds;
}

}  // namespace

FolderClaim::FolderClaim(const std::string& path, const Options& options)
    : path_(path), top_(options.top) {
  // Somebody removes a dead predecessor at the same time, or what was last in a folder above.
  constexpr int kTries = 20;
  const std::string lock = path_ + "/" + kLock;
  for (int i = 0; i < kTries && !folder_; ++i) {
    if (!top_.empty()) check_not_planted(top_);  // before anything is made in there
    if (!make_folders(path_, options.group)) continue;
    if (!top_.empty()) check_not_planted(top_);
    lock_.reset(open(lock.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!lock_ && errno == ENOENT) continue;
    if (!lock_) fail("cannot make", lock, "choose a folder that you may write to");
    if (!take_lock(lock_.get())) {
      throw std::runtime_error(
          fmt::format("another process uses the folder '{}'; name another one", path_));
    }
    if (!is_same(lock_.get(), lock)) continue;
    folder_.reset(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  }
  if (!folder_) fail("cannot open the folder", path_, "try again");
  const Owner here = this_machine();
  const Owner before = read_owner(lock_.get());
  has_predecessor_ = before.boot == here.boot && before.lasting;
  const std::string text =
      fmt::format("{} {} {}\n", here.boot, here.host, options.lasting ? "lasting" : "once");
  if (ftruncate(lock_.get(), 0) != 0 ||
      pwrite(lock_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    fail("cannot write", lock, "make room there, or name another folder");
  }
}

void FolderClaim::touch() const { futimens(lock_.get(), nullptr); }

void FolderClaim::remove() {
  std::error_code ignored;  // what cannot be removed now is removed as a dead folder later
  std::filesystem::remove_all(path_, ignored);
  remove_empty_folders(std::filesystem::path(path_).parent_path(), top_);
}

void remove_dead_folders(const std::string& parent) {
  const Owner here = this_machine();
  std::error_code error;
  for (std::filesystem::directory_iterator entry(parent, error), end; !error && entry != end;
       entry.increment(error)) {
    struct stat status {};
    const std::string path = entry->path();
    if (lstat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) continue;
    if (status.st_uid != geteuid()) continue;
    const Descriptor lock(open((path + "/" + kLock).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
    if (!lock || !is_dead(path, lock.get(), here)) continue;
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
}

void remove_empty_folders(const std::string& folder, const std::string& top) {
  if (top.empty()) return;
  for (std::filesystem::path next = folder; next == top || next.string().starts_with(top + "/");
       next = next.parent_path()) {
    if (rmdir(next.c_str()) != 0 && errno != ENOENT) return;
  }
}

std::uint64_t free_bytes_at(const std::string& path) {
  std::filesystem::path there = path;
  struct statvfs status {};
  while (statvfs(there.c_str(), &status) != 0) {
    if (!there.has_parent_path() || there == there.parent_path()) return 0;
    there = there.parent_path();
  }
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

}  // namespace muster
