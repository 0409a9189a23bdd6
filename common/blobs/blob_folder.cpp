#include "common/blobs/blob_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "common/blobs/blob_folder_state.hpp"

namespace muster {
namespace {

constexpr const char* kWriting = ".writing";  // ending of incoming files that arrive in pieces
constexpr Duration kLookAtMoves = std::chrono::milliseconds(20);
constexpr Duration kLookAtDisk = std::chrono::milliseconds(500);
constexpr Duration kLookAtIncoming = std::chrono::seconds(5);
constexpr std::chrono::seconds kIncomingPatience{600};
constexpr std::chrono::seconds kLastWords{10};

bool is_plain_name(const std::string& file) {
  return !file.empty() && file.size() < 256 && file.front() != '.' &&
         file.find('/') == std::string::npos;
}

}  // namespace

BlobFolder::BlobFolder(BlobFolderOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}

BlobFolder::~BlobFolder() {
  State& s = *state_;
  for (auto& [id, partial] : s.partials) {
    s.shelf(partial.place).remove_incoming(to_hex(id) + kWriting);
  }
  for (const auto& of_place : s.unpinned) {
    while (!of_place.empty()) s.remove(of_place.begin()->second);
  }
  if (s.options.lasting && !s.entries.empty()) {
    s.memory.claim().touch();
    s.disk.claim().touch();
    return;
  }
  s.memory.claim().remove();
  s.disk.claim().remove();
}

bool BlobFolder::holds(const BlobId& id) const { return state_->entries.count(id) != 0; }

std::optional<std::uint64_t> BlobFolder::size_bytes(const BlobId& id) const {
  const auto found = state_->entries.find(id);
  if (found == state_->entries.end()) return std::nullopt;
  return found->second.size;
}

std::string BlobFolder::path(const BlobId& id) const {
  const auto found = state_->entries.find(id);
  if (found == state_->entries.end()) return "";
  if (found->second.place == State::Place::file) return found->second.source.path;
  return state_->shelf(found->second.place).path() + "/" + to_hex(id);
}

const std::string& BlobFolder::token() const { return state_->token; }
std::uint64_t BlobFolder::largest_bytes() const {
  return std::max(state_->memory.limit_bytes(), state_->disk.limit_bytes());
}
std::vector<std::string> BlobFolder::folders() const {
  return {state_->memory.path(), state_->disk.path()};
}
const std::string& BlobFolder::trouble() const { return state_->trouble; }
std::uint64_t BlobFolder::memory_bytes() const { return state_->memory.used_bytes(); }
std::uint64_t BlobFolder::disk_bytes() const { return state_->disk.used_bytes(); }
std::uint64_t BlobFolder::count() const { return state_->entries.size(); }

std::string BlobFolder::adopt(const BlobSource& source, std::optional<std::uint32_t> maker) {
  State& s = *state_;
  if (source.place == BlobPlace::file) return s.adopt_file(source);
  const State::Place place =
      source.place == BlobPlace::memory ? State::Place::memory : State::Place::disk;
  if (source.place == BlobPlace::kept || !is_plain_name(source.file)) {
    return fmt::format("'{}' is not the name of an incoming file", source.file);
  }
  std::string error = s.adopt_incoming(source.name, place, source.file, maker);
  if (!maker || s.shelf(place).maker_of(source.file) == *maker) {
    s.shelf(place).remove_incoming(source.file);  // if it is still there
  }
  return error;  // tick() makes room, when the caller that wants it has pinned it
}

std::string BlobFolder::adopt_from(const BlobName& name, const std::string& owner) {
  State& s = *state_;
  const std::string file = to_hex(name.id) + "." + owner;
  if (!is_plain_name(file)) return fmt::format("'{}' is not the name of an incoming file", file);
  for (const State::Place place : {State::Place::memory, State::Place::disk}) {
    if (!s.shelf(place).has_incoming(file)) continue;
    return adopt({name, place == State::Place::memory ? BlobPlace::memory : BlobPlace::disk, file});
  }
  if (holds(name.id)) return "";
  return fmt::format("there is no file '{}' in '{}/incoming' or '{}/incoming'", file,
                     s.memory.path(), s.disk.path());
}

bool BlobFolder::has_incoming(const BlobId& id, const std::string& owner) const {
  const std::string file = to_hex(id) + "." + owner;
  return state_->memory.has_incoming(file) || state_->disk.has_incoming(file);
}

bool BlobFolder::make_room_from(const BlobName& name, const std::string& owner) {
  State& s = *state_;
  if (holds(name.id)) return true;
  const bool in_memory = s.memory.has_incoming(to_hex(name.id) + "." + owner);
  return s.may_stay(in_memory ? State::Place::memory : State::Place::disk, name.size_bytes);
}

void BlobFolder::discard_from(const BlobId& id, const std::string& owner) {
  const std::string file = to_hex(id) + "." + owner;
  for (const BlobShelf* shelf : {&state_->memory, &state_->disk}) shelf->remove_incoming(file);
}

std::string BlobFolder::State::adopt_incoming(const BlobName& name, Place place,
                                              const std::string& file,
                                              std::optional<std::uint32_t> maker) {
  const auto found = entries.find(name.id);
  if (found != entries.end()) {  // who said so before a broken connection says it again
    if (found->second.size == name.size_bytes) return "";
    return fmt::format("a blob of this name has {} bytes, not {}", found->second.size,
                       name.size_bytes);
  }
  const std::string path = shelf(place).path() + "/incoming/" + file;
  const Descriptor opened = shelf(place).open_incoming(file);
  struct stat status {};
  if (!opened || fstat(opened.get(), &status) != 0) {
    return fmt::format("cannot read '{}': {}", path, std::strerror(errno));
  }
  if (maker && status.st_uid != *maker) {
    return fmt::format("'{}' is not a file of the user who named it ({}), but of user {}", path,
                       *maker, status.st_uid);
  }
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != name.size_bytes) {
    return fmt::format("'{}' is not a file of {} bytes, as was said, but has {}", path,
                       name.size_bytes, status.st_size);
  }
  // It takes room already; whether it may stay is a matter of the limits.
  if (!may_stay(place, name.size_bytes)) return no_room(name.size_bytes);
  const int error = shelf(place).place(file, name.id, opened.get());
  if (error != 0) return fmt::format("cannot keep '{}': {}", path, std::strerror(error));
  add(name, place);
  return "";
}

// A file of the user's stays where it is; it must not change while tasks use it.
std::string BlobFolder::State::adopt_file(const BlobSource& source) {
  const auto found = entries.find(source.name.id);
  if (found != entries.end() && found->second.size == source.name.size_bytes) return "";
  if (found != entries.end()) return "a blob of this name has another size";
  std::string why;
  const auto file = look_at_user_file(source.file, source.offset, source.name.size_bytes, why);
  if (!file) return why;
  if (const int error = disk.refer(source.name.id, *file); error != 0) {
    return fmt::format("cannot write to '{}': {}; free space there", disk.path(),
                       std::strerror(error));
  }
  add(source.name, Place::file).source = *file;
  return "";
}

std::string BlobFolder::begin(const BlobName& name) {
  State& s = *state_;
  if (holds(name.id) || s.partials.count(name.id) != 0) return "the blob is here already";
  const auto place = s.room_for(name.size_bytes);
  if (!place) return s.no_room(name.size_bytes);
  State::Place taken = *place;
  if (const int error = s.start_partial(name, taken); error != 0) {
    // A file system that is fuller than it said.
    const bool other = taken == State::Place::memory &&
                       s.make_room(State::Place::disk, name.size_bytes) &&
                       s.start_partial(name, taken = State::Place::disk) == 0;
    if (!other) {
      return fmt::format("{} ({})", s.no_room(name.size_bytes), std::strerror(error));
    }
  }
  return "";
}

// Takes the room on the file system as well, so that writing does not fail half-way: on disk at
// once, in memory piece by piece, because the kernel would clear all of it here.
int BlobFolder::State::start_partial(const BlobName& name, Place place) {
  const std::string file = to_hex(name.id) + kWriting;
  Descriptor made = shelf(place).create_incoming(file);
  if (!made) return errno;
  const auto size = static_cast<off_t>(name.size_bytes);
  int error = EOPNOTSUPP;
  if (place == Place::disk && size > 0) {
    error = fallocate(made.get(), 0, 0, size) == 0 ? 0 : errno;
  }
  const bool is_reserved = error == 0;
  if (error == EOPNOTSUPP) error = ftruncate(made.get(), size) == 0 ? 0 : errno;
  if (error != 0) {
    shelf(place).remove_incoming(file);
    return error;
  }
  const std::uint64_t promised = is_reserved ? 0 : name.size_bytes;
  shelf(place).use(name.size_bytes);
  shelf(place).promise(promised);
  partials[name.id] = {name.size_bytes, place, std::move(made), promised, {}};
  return 0;
}

void BlobFolder::State::keep_promise(Partial& partial, std::uint64_t bytes) {
  const std::uint64_t kept = std::min(bytes, partial.promised);  // pieces may come twice
  partial.promised -= kept;
  shelf(partial.place).keep(kept);
}

std::string BlobFolder::write(const BlobId& id, std::uint64_t offset,
                              std::span<const std::byte> piece) {
  const auto found = state_->partials.find(id);
  if (found == state_->partials.end()) return "nobody began this blob";
  State::Partial& partial = found->second;
  if (offset > partial.size || piece.size() > partial.size - offset) {
    return fmt::format("{} bytes from {} on are beyond the end of a blob of {}", piece.size(),
                       offset, partial.size);
  }
  std::size_t written = 0;
  while (written < piece.size()) {
    const ssize_t part = pwrite(partial.file.get(), piece.data() + written, piece.size() - written,
                                static_cast<off_t>(offset + written));
    if (part < 0 && errno == EINTR) continue;
    if (part <= 0) {
      return fmt::format("cannot write to '{}': {}; free space there",
                         state_->shelf(partial.place).path(), std::strerror(errno));
    }
    written += static_cast<std::size_t>(part);
  }
  state_->keep_promise(partial, piece.size());
  if (!piece.empty()) partial.written.add(offset, offset + piece.size());
  return "";
}

std::string BlobFolder::finish(const BlobId& id) {
  State& s = *state_;
  const auto found = s.partials.find(id);
  if (found == s.partials.end()) return "nobody began this blob";
  State::Partial& partial = found->second;
  if (!partial.written.covers(partial.size)) return "not every byte of the blob was written";
  const int error = s.shelf(partial.place).place(to_hex(id) + kWriting, id);
  if (error != 0) {
    return fmt::format("cannot keep a blob in '{}': {}", s.shelf(partial.place).path(),
                       std::strerror(error));
  }
  s.keep_promise(partial, partial.promised);
  s.shelf(partial.place).unuse(partial.size);  // add() counts it
  if (!holds(id)) s.add({id, partial.size}, partial.place);
  s.partials.erase(found);
  return "";
}

void BlobFolder::abandon(const BlobId& id) {
  const auto found = state_->partials.find(id);
  if (found == state_->partials.end()) return;
  BlobShelf& shelf = state_->shelf(found->second.place);
  state_->keep_promise(found->second, found->second.promised);
  shelf.remove_incoming(to_hex(id) + kWriting);
  shelf.unuse(found->second.size);
  state_->partials.erase(found);
}

std::string BlobFolder::read(const BlobId& id, std::uint64_t offset, std::span<std::byte> piece) {
  State& s = *state_;
  const auto found = s.entries.find(id);
  if (found == s.entries.end()) return "the blob is not here";
  State::Entry& entry = found->second;
  if (offset > entry.size || piece.size() > entry.size - offset) {
    return fmt::format("{} bytes from {} on are beyond the end of a blob of {}", piece.size(),
                       offset, entry.size);
  }
  std::string why;
  const bool is_users = entry.place == State::Place::file;
  const Descriptor file =
      is_users ? open_user_file(entry.source, why) : s.shelf(entry.place).open_blob(id);
  const std::string path_read = is_users ? entry.source.path : path(id);
  if (!file) {
    return is_users ? why : fmt::format("cannot read '{}': {}", path_read, std::strerror(errno));
  }
  std::size_t done = 0;
  while (done < piece.size()) {
    const ssize_t part = pread(file.get(), piece.data() + done, piece.size() - done,
                               static_cast<off_t>(entry.source.offset_bytes + offset + done));
    if (part < 0 && errno == EINTR) continue;
    if (part <= 0) {
      return fmt::format("cannot read '{}': {}", path_read,
                         part == 0 ? "it is shorter than it was" : std::strerror(errno));
    }
    done += static_cast<std::size_t>(part);
  }
  s.touch(id, entry);
  return "";
}

void BlobFolder::pin(const BlobId& id) {
  const auto found = state_->entries.find(id);
  if (found == state_->entries.end()) return;
  ++found->second.pins;
  state_->touch(id, found->second);
}

void BlobFolder::unpin(const BlobId& id, bool cached, Time now) {
  const auto found = state_->entries.find(id);
  if (found == state_->entries.end() || found->second.pins == 0) return;
  if (--found->second.pins > 0) return;
  if (!cached) {
    state_->remove(id);
    return;
  }
  state_->touch(id, found->second);
  found->second.unused_since = now;
}

void BlobFolder::clear_incoming(const std::string& owner) {
  for (const BlobShelf* shelf : {&state_->memory, &state_->disk}) {
    shelf->clear_incoming("." + owner);
  }
}

std::vector<BlobId> BlobFolder::tick(Time now) {
  State& s = *state_;
  s.last_tick = now;
  s.end_moves(now);
  s.expire(now);
  s.settle(now);
  if (now >= s.next_look) {
    s.next_look = now + kLookAtIncoming;
    if (s.first_look == Time{0}) s.first_look = now;
    // A process that wrote for a predecessor has as long to say so as any other.
    const bool is_settled = now - s.first_look >= kIncomingPatience;
    const std::time_t clock = std::time(nullptr);
    for (BlobShelf* shelf : {&s.memory, &s.disk}) {
      shelf->claim().touch();
      shelf->clear_abandoned(clock - kLastWords.count(),
                             is_settled ? clock - kIncomingPatience.count() : 0);
    }
  }
  std::erase_if(s.gone, [&](const BlobId& id) { return holds(id); });
  return std::exchange(s.gone, {});
}

Time BlobFolder::next_deadline() const {
  const State& s = *state_;
  if (!s.gone.empty() || !s.fresh.empty()) return s.last_tick;
  Time next = s.next_look;
  if (s.mover.open_count() > 0) next = std::min(next, s.last_tick + kLookAtMoves);
  if (!s.unpinned[static_cast<std::size_t>(State::Place::disk)].empty())
    next = std::min(next, s.last_tick + kLookAtDisk);
  for (const auto& of_place : s.unpinned) {
    if (of_place.empty()) continue;
    next = std::min(next, s.entries.at(of_place.begin()->second).unused_since + s.options.keep);
  }
  return next;
}

}  // namespace muster
