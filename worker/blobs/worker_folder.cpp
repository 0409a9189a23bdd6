#include "worker/blobs/worker_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <muster/shared.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "common/net/secret.hpp"
#include "common/system/descriptor.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

// Less than this in memory is not worth a second place to look into.
constexpr std::uint64_t kLeastMemoryBytes = std::uint64_t{16} << 20;
constexpr std::size_t kMostTokenBytes = 256;
constexpr const char* kIncoming = "/incoming/";

std::uint64_t room_of(const std::string& path) {
  struct statvfs file_system {};
  if (::statvfs(path.c_str(), &file_system) != 0) return 0;
  return std::uint64_t{file_system.f_bavail} * file_system.f_frsize;
}

[[noreturn]] void fail(const std::string& path) {
  throw std::runtime_error(fmt::format("cannot make {}: {}", path, std::strerror(errno)));
}

void link_to(const std::string& target, const std::string& path) {
  if (::symlink(target.c_str(), path.c_str()) != 0) fail(path);
}

bool may_write(const std::string& folder) {
  return ::access((folder + kIncoming).c_str(), W_OK | X_OK) == 0;
}

}  // namespace

std::string memory_root_of_user() { return fmt::format("/dev/shm/muster-{}", ::geteuid()); }

WorkerFolder::WorkerFolder(WorkerFolderOptions options)
    : options_(std::move(options)), name_("worker-" + to_hex(options_.worker)) {
  remove_dead_folders(options_.disk_root);
  if (!make_in_memory()) {
    path_ = options_.disk_root + "/" + name_ + "-tasks";
    claim_.emplace(path_, FolderClaim::Options{.top = options_.disk_top});
  }
  for (const char* name : {"memory", "disk", "shares"}) {
    link_to(std::string("current/") + name, path_ + "/" + name);
  }
}

WorkerFolder::~WorkerFolder() { claim_->remove(); }

bool WorkerFolder::make_in_memory() {
  if (options_.memory_root.empty()) return false;
  if (room_of(fs::path(options_.memory_root).parent_path()) < kLeastMemoryBytes) return false;
  try {
    path_ = options_.memory_root + "/" + name_;
    claim_.emplace(path_, FolderClaim::Options{.top = options_.memory_root});
    in_memory_ = true;
  } catch (const std::exception& error) {
    trouble_ = error.what();  // somebody else's folder, or no right to make one: then on disk
    return false;
  }
  remove_dead_folders(options_.memory_root);  // of which is known now that it is ours
  return true;
}

std::string WorkerFolder::disk_folder() const { return options_.disk_root + "/" + name_; }

void WorkerFolder::export_environment() const {
  ::setenv(kBlobsVariable, path_.c_str(), 1);
  ::setenv("MUSTER_BLOB_OWNER", to_hex(options_.worker).c_str(), 1);
}

bool WorkerFolder::sees(const std::vector<std::string>& broker_folders, const std::string& token) {
  if (broker_folders.size() != 2 || token.empty() || token.size() >= kMostTokenBytes) return false;
  const Descriptor file(::open((broker_folders[0] + "/token").c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, kMostTokenBytes> buffer{};
  const ssize_t got = file ? ::read(file.get(), buffer.data(), buffer.size()) : -1;
  if (got <= 0) return false;
  std::string_view text(buffer.data(), static_cast<std::size_t>(got));
  while (text.ends_with('\n')) text.remove_suffix(1);
  return same_secret(text, token) &&
         std::all_of(broker_folders.begin(), broker_folders.end(), may_write);
}

void WorkerFolder::use(const std::vector<std::string>& folders, bool shares) {
  const std::string name = fmt::format("use-{}", ++uses_);
  const std::string folder = path_ + "/" + name;
  if (::mkdir(folder.c_str(), 0700) != 0) fail(folder);
  link_to(folders[0], folder + "/memory");
  link_to(folders[1], folder + "/disk");
  if (shares) {
    const std::string file = folder + "/shares";
    if (!Descriptor(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600))) fail(file);
  }
  const std::string next = path_ + "/next";
  ::unlink(next.c_str());
  link_to(name, next);
  if (::rename(next.c_str(), (path_ + "/current").c_str()) != 0) fail(path_ + "/current");
  std::error_code ignored;
  if (!use_.empty()) fs::remove_all(use_, ignored);
  use_ = folder;
  const std::vector<std::string> before = std::exchange(used_, folders);
  const auto marks_before = std::exchange(marks_, {});  // until nothing of ours is there
  if (shares) mark();
  if (!before.empty()) bring_along(before);
}

void WorkerFolder::mark() {
  std::vector<std::unique_ptr<OwnerMark>> marks;
  for (const std::string& folder : used_) {
    marks.push_back(std::make_unique<OwnerMark>(folder, to_hex(options_.worker)));
  }
  marks_ = std::move(marks);  // the earlier ones go when the new ones are there
}

// What runners wrote, or still write, for a broker that is not there any more.
void WorkerFolder::bring_along(const std::vector<std::string>& from) const {
  const std::string suffix = "." + to_hex(options_.worker);
  for (std::size_t i = 0; i < used_.size(); ++i) {
    std::error_code error;
    std::vector<std::string> found;
    for (const fs::directory_entry& entry : fs::directory_iterator(from[i] + kIncoming, error)) {
      const std::string name = entry.path().filename();
      if (name.ends_with(suffix)) found.push_back(kIncoming + name);
    }
    if (error == std::errc::permission_denied) {  // another user's broker was here
      spdlog::warn("cannot list '{}': results that its broker had not taken are lost", from[i]);
    }
    for (const std::string& name : found) fs::rename(from[i] + name, used_[i] + name, error);
  }
}

std::string WorkerFolder::incoming_name(const BlobId& result) const {
  return kIncoming + to_hex(result) + "." + to_hex(options_.worker);
}

void WorkerFolder::offer(const BlobId& result, const std::vector<std::string>& from) const {
  const std::string blob = "/" + to_hex(result);
  const std::string name = incoming_name(result);
  // It may be on its way from memory to disk: look there again.
  for (const std::size_t place : {0U, 1U, 0U}) {
    if (::link((from[place] + blob).c_str(), (used_[place] + name).c_str()) == 0) return;
  }
}

void WorkerFolder::discard(const BlobId& result) const {
  const std::string name = incoming_name(result);
  for (const std::string& folder : used_) ::unlink((folder + name).c_str());
}

}  // namespace muster
