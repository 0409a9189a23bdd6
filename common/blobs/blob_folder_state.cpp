#include "common/blobs/blob_folder_state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

namespace muster {
namespace {

constexpr const char* kMoving = ".moving";  // ending of incoming files that are copies
constexpr std::size_t kMovesAhead = 2;
constexpr std::uint64_t kSlowToFree = std::uint64_t{4} << 20;  // a millisecond and more
constexpr Duration kTryDiskAgain = std::chrono::seconds(5);

std::string new_token() {
  std::random_device random;
  std::string token;
  for (int i = 0; i < 4; ++i) token += fmt::format("{:08x}", random());
  return token;
}

std::string size_text(std::uint64_t bytes) {
  constexpr double kMebibyte = 1 << 20;
  if (bytes < (std::uint64_t{1} << 20)) return fmt::format("{} bytes", bytes);
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kMebibyte);
}

}  // namespace

BlobFolder::State::State(BlobFolderOptions its_options)
    : options(std::move(its_options)),
      memory(options.memory, options.memory_limit_bytes,
             {options.group, options.lasting, options.memory_top}),
      disk(options.disk, options.disk_limit_bytes,
           {options.group, options.lasting, options.disk_top}),
      token(new_token()) {
  take_over();
  memory.write_token(token);
  for (const BlobShelf* shelf : {&memory, &disk}) {
    remove_dead_folders(std::filesystem::path(shelf->path()).parent_path());
    shelf->clear_incoming(".writing");
    shelf->clear_incoming(kMoving);
  }
}

void BlobFolder::State::take_over() {
  memory.each_blob([this](const BlobName& name) { add(name, Place::memory); });
  disk.each_blob([this](const BlobName& name) {
    if (entries.count(name.id) == 0) {
      add(name, Place::disk);
    } else {
      disk.remove(name.id);  // its move had not ended
    }
  });
  disk.each_user_file([this](const BlobId& id, const UserFile& file) {
    if (entries.count(id) == 0) add({id, file.size_bytes}, Place::file).source = file;
  });
}

BlobFolder::State::Entry& BlobFolder::State::add(const BlobName& name, Place place) {
  Entry& entry = entries[name.id];
  entry.size = name.size_bytes;
  entry.place = place;
  if (place != Place::file) shelf(place).use(entry.size);
  touch(name.id, entry);
  return entry;
}

void BlobFolder::State::touch(const BlobId& id, Entry& entry) {
  unlist(entry);
  entry.use = ++last_use_;
  if (entry.place == Place::memory) in_memory[entry.use] = id;
  if (entry.pins > 0) return;
  unpinned_in(entry.place)[entry.use] = id;
  if (entry.unused_since != kNever || fresh.empty() || fresh.back() != id) fresh.push_back(id);
  entry.unused_since = kNever;
}

void BlobFolder::State::unlist(const Entry& entry) {
  in_memory.erase(entry.use);
  unpinned_in(entry.place).erase(entry.use);
}

void BlobFolder::State::remove(const BlobId& id) {
  const BlobId name = id;  // it may be in one of the lists
  Entry& entry = entries.at(name);
  unlist(entry);
  drop_file(name, entry);
  if (entry.moving) {  // end_moves() drops the copy
    disk.unuse(entry.size);
    moving_bytes_ -= entry.size;
  }
  entries.erase(name);
  gone.push_back(name);
}

// Freeing much memory takes time: another thread does it.
void BlobFolder::State::drop_file(const BlobId& id, const Entry& entry) {
  const bool is_ours = entry.place != Place::file;
  Descriptor file;
  if (is_ours && entry.size >= kSlowToFree) file = shelf(entry.place).open_blob(id);
  shelf(entry.place).remove(id);
  if (file) closer.close(std::move(file));
  if (is_ours) shelf(entry.place).unuse(entry.size);
}

// Removes the unpinned blob of this place that was used longest ago, if there is one.
bool BlobFolder::State::evict(Place place) {
  const auto& of_place = unpinned_in(place);
  if (of_place.empty()) return false;
  remove(of_place.begin()->second);
  return true;
}

bool BlobFolder::State::make_room(Place place, std::uint64_t size) {
  if (size > shelf(place).limit_bytes()) return false;
  while (!shelf(place).has_room(size)) {
    if (!evict(place)) return false;
  }
  return true;
}

std::optional<BlobFolder::State::Place> BlobFolder::State::room_for(std::uint64_t size) {
  for (const Place place : {Place::memory, Place::disk}) {
    if (make_room(place, size)) return place;
  }
  return std::nullopt;
}

bool BlobFolder::State::may_stay(Place place, std::uint64_t size) {
  if (size > std::max(memory.limit_bytes(), disk.limit_bytes())) return false;
  const auto fits = [&] {
    if (place == Place::disk) {  // what moved there left room in memory
      const std::uint64_t on_disk = disk.used_bytes() + size;
      return on_disk <= disk.limit_bytes() ||
             memory.used_bytes() - moving_bytes_ + on_disk - disk.limit_bytes() <=
                 memory.limit_bytes();
    }
    const std::uint64_t used = memory.used_bytes() - moving_bytes_ + size;
    return used <= memory.limit_bytes() || disk.has_room(used - memory.limit_bytes());
  };
  while (!fits()) {
    const Place other = place == Place::memory ? Place::disk : Place::memory;
    if (!evict(place) && !evict(other)) return false;
  }
  return true;
}

void BlobFolder::State::expire(Time now) {
  for (const BlobId& id : std::exchange(fresh, {})) {
    const auto found = entries.find(id);
    if (found != entries.end() && found->second.unused_since == kNever) {
      found->second.unused_since = now;
    }
  }
  // About in the order in which they came out of use: what waits behind a younger one waits for it.
  for (const auto& of_place : unpinned) {
    while (!of_place.empty()) {
      const BlobId id = of_place.begin()->second;
      if (now - entries.at(id).unused_since < options.keep) break;
      remove(id);
    }
  }
}

std::string BlobFolder::State::no_room(std::uint64_t size) const {
  return fmt::format(
      "no room for a blob of {}: '{}' holds {} of {}, '{}' holds {} of {} (and {} are free there); "
      "release data, raise the limits of blobs, or free disk space",
      size_text(size), memory.path(), size_text(memory.used_bytes()),
      size_text(memory.limit_bytes()), disk.path(), size_text(disk.used_bytes()),
      size_text(disk.limit_bytes()), size_text(disk.free_bytes()));
}

void BlobFolder::State::settle(Time now) {
  const std::uint64_t cached = std::min(memory.limit_bytes(), options.memory_cached_bytes);
  while (memory.used_bytes() > cached && evict(Place::memory)) {
  }
  // A disk that others fill: what is only cached goes before somebody waits for room there.
  while (!unpinned_in(Place::disk).empty() && disk.free_bytes() < disk.limit_bytes() / 2) {
    evict(Place::disk);
  }
  while (memory.used_bytes() - moving_bytes_ > memory.limit_bytes()) {
    if (mover.open_count() >= kMovesAhead || now < disk_again_ || !start_move(now)) return;
  }
}

// Or drops what need not be kept. False: nothing can be moved now.
bool BlobFolder::State::start_move(Time now) {
  for (const auto& [use, id] : in_memory) {
    Entry& entry = entries.at(id);
    if (entry.moving || moves_.count(id) != 0) continue;
    if (!disk.has_room(entry.size)) {
      if (make_room(Place::disk, entry.size)) return true;
      trouble_with_disk(ENOSPC, now);
      return false;
    }
    Descriptor from = memory.open_blob(id);
    Descriptor to = disk.create_incoming(to_hex(id) + kMoving);
    if (!from || !to) {
      trouble_with_disk(errno, now);
      return false;
    }
    entry.moving = true;
    disk.use(entry.size);
    moving_bytes_ += entry.size;
    moves_.insert(id);
    mover.start({id, std::move(from), std::move(to), entry.size});
    return true;
  }
  return false;
}

void BlobFolder::State::end_moves(Time now) {
  for (const BlobMover::Done& done : mover.take_done()) {
    const std::string copy = to_hex(done.id) + kMoving;
    moves_.erase(done.id);
    const auto found = entries.find(done.id);
    if (found == entries.end() || !found->second.moving) {  // removed meanwhile
      disk.remove_incoming(copy);
      continue;
    }
    Entry& entry = found->second;
    entry.moving = false;
    moving_bytes_ -= entry.size;
    const int error = done.error != 0 ? done.error : disk.place(copy, done.id);
    if (error != 0) {
      disk.remove_incoming(copy);
      disk.unuse(entry.size);
      trouble_with_disk(error, now);
      continue;
    }
    drop_file(done.id, entry);
    const bool is_unpinned = unpinned_in(entry.place).count(entry.use) != 0;
    unlist(entry);
    entry.place = Place::disk;
    if (is_unpinned) unpinned_in(entry.place)[entry.use] = done.id;
    trouble.clear();
  }
}

void BlobFolder::State::trouble_with_disk(int error, Time now) {
  disk_again_ = now + kTryDiskAgain;
  trouble = fmt::format(
      "blobs beyond the limit of '{}' stay there, because '{}' takes no more: {}; free disk space, "
      "or raise the limits of blobs",
      memory.path(), disk.path(), std::strerror(error));
}

}  // namespace muster
