#include "broker/blobs/blob_store.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "common/blobs/folder_claim.hpp"
#include "common/protocol/blob_names.hpp"
#include "common/system/user_cache.hpp"

namespace muster {
namespace {

constexpr const char* kMemoryFileSystem = "/dev/shm";

// What this machine has, or what its container may use.
std::uint64_t memory_bytes() {
  const auto pages = static_cast<std::uint64_t>(std::max(sysconf(_SC_PHYS_PAGES), 0L));
  std::uint64_t bytes = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  std::uint64_t limit = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit && limit > 0) {
    bytes = std::min(bytes, limit);
  }
  return bytes;
}

std::string cache_folder() {
  const std::string cache = user_cache();
  return cache.empty() ? fmt::format("/var/tmp/muster-{}", geteuid()) : cache;
}

// Brokers of one user alone leave it closed to everybody else, so others have theirs.
std::string memory_top(bool group) {
  const std::string own = fmt::format("{}/muster-{}", kMemoryFileSystem, geteuid());
  return group ? fmt::format("{}-{}", own, getegid()) : own;
}

// The first folder on the way to `path` that the group of this process cannot enter; empty: none.
std::string closed_to_group(const std::string& path) {
  std::string closed;
  for (std::filesystem::path each = path; each.has_relative_path(); each = each.parent_path()) {
    struct stat status {};
    if (stat(each.c_str(), &status) != 0) continue;
    const bool is_ours = status.st_gid == getegid() && (status.st_mode & S_IXGRP) != 0;
    if (!is_ours && (status.st_mode & S_IXOTH) == 0) closed = each;
  }
  return closed;
}

// The same for every broker at this endpoint of this machine, and no other's: a home may be shared
// by several machines.
std::string folder_name(const std::string& endpoint) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  const std::string text = fmt::format("{} {} {}", host.data(), geteuid(), endpoint);
  return "broker-" + to_hex(digest_of(std::as_bytes(std::span(text.data(), text.size()))));
}

}  // namespace

BlobStore::BlobStore(const BlobOptions& options, const std::string& endpoint) {
  try {
    open(options, endpoint);
  } catch (const std::runtime_error& error) {
    reason_ = fmt::format("this broker keeps no blobs: {}", error.what());
    spdlog::warn("{}; data travels inside messages", reason_);
  }
}

void BlobStore::open(const BlobOptions& options, const std::string& endpoint) {
  const std::string name = folder_name(endpoint);
  BlobFolderOptions its;
  its.disk_top = options.folder.empty() ? cache_folder() : "";  // one that was named stays
  its.disk = (options.folder.empty() ? its.disk_top + "/blobs" : options.folder) + "/" + name;
  its.memory_top = memory_top(options.group);
  its.memory = its.memory_top + "/" + name;
  its.group = options.group;
  its.lasting = options.lasting;
  if (options.memory_bytes == 0 && options.disk_bytes == 0) {
    throw std::runtime_error("--blob-memory and --blob-disk are 0");
  }
  its.disk_limit_bytes = options.disk_bytes.value_or(free_bytes_at(its.disk) / 2);
  if (access(kMemoryFileSystem, W_OK) != 0) {  // without one everything lies on disk
    its.memory = its.disk + ".memory";
    its.memory_top = its.disk_top;
  } else {
    its.memory_limit_bytes =
        std::min(options.memory_bytes.value_or(memory_bytes() / 4), free_bytes_at(its.memory) / 2);
  }
  // What producers may be writing at any moment takes room that no blob here counts yet.
  its.memory_cached_bytes = its.memory_limit_bytes / 2;
  memory_limit_ = its.memory_limit_bytes;
  disk_limit_ = its.disk_limit_bytes;
  folder_ = std::make_unique<BlobFolder>(its);
  spdlog::info("blobs: {} MiB in '{}', {} MiB in '{}'", memory_limit_ >> 20, its.memory,
               disk_limit_ >> 20, its.disk);
  const std::string closed = options.group ? closed_to_group(its.disk) : "";
  if (!closed.empty()) {
    spdlog::warn(
        "the group of this broker cannot enter '{}', so programs of other users send their data "
        "inside messages: name a --blob-folder that it can enter",
        closed);
  }
  if (folder_->count() > 0) spdlog::info("{} blobs are there already", folder_->count());
}

bool BlobStore::holds(const BlobName& name) const {
  return folder_ && folder_->size_bytes(name.id) == name.size_bytes;
}
std::string BlobStore::adopt(const BlobSource& source, std::optional<std::uint32_t> maker) {
  return folder_ ? folder_->adopt(source, maker) : reason_;
}
void BlobStore::pin(const BlobId& id) {
  if (folder_) folder_->pin(id);
}
void BlobStore::unpin(const BlobId& id, bool cached) {
  if (folder_) folder_->unpin(id, cached, now_);
}
void BlobStore::clear_incoming(const std::string& owner) {
  if (folder_) folder_->clear_incoming(owner);
}

std::vector<std::string> BlobStore::folders() const {
  return folder_ ? folder_->folders() : std::vector<std::string>{};
}
std::string BlobStore::token() const { return folder_ ? folder_->token() : ""; }

void BlobStore::tick(Time now) {
  now_ = now;
  if (!folder_ || now < folder_->next_deadline()) return;
  folder_->tick(now);
  if (folder_->trouble() == trouble_told_) return;
  trouble_told_ = folder_->trouble();
  if (!trouble_told_.empty()) spdlog::warn("{}", trouble_told_);
}

Time BlobStore::next_deadline() const { return folder_ ? folder_->next_deadline() : kNever; }

}  // namespace muster
