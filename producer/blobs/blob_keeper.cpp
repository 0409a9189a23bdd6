#include "producer/blobs/blob_keeper.hpp"

#include <unistd.h>

#include <utility>

#include "common/protocol/blob_names.hpp"
#include "producer/blobs/kept_file.hpp"

namespace muster::detail {
namespace {

// Releases wait for others, so long at most ...
constexpr std::chrono::milliseconds kReleaseWindow{10};
// ... or until so many bytes could be freed.
constexpr std::uint64_t kReleaseBytes = std::uint64_t{16} << 20;

Time clock_now() { return std::chrono::steady_clock::now().time_since_epoch(); }

BlobName name_of(std::span<const std::byte> content) {
  return {digest_of(content), content.size()};
}

}  // namespace

BlobKeeper::BlobKeeper(const SessionId& session, std::function<void()> wake)
    : process_(::getpid()), owner_(to_hex(session)), wake_(std::move(wake)) {}

// --- Uses

// Whether the end of tasks alone makes room.
bool BlobKeeper::frees_room(const Entry& entry) const {
  return entry.origin == Origin::written && entry.handles == 0 && entry.payloads > 0;
}

template <typename Change>
void BlobKeeper::change(Entry& entry, const Change& change) {
  const bool before = frees_room(entry);
  change(entry);
  const bool after = frees_room(entry);
  if (before == after) return;
  const std::uint64_t size_bytes = entry.source.name.size_bytes;
  freeable_bytes_ = after ? freeable_bytes_ + size_bytes : freeable_bytes_ - size_bytes;
  if (waiters_ > 0) changed_.notify_all();
}

void BlobKeeper::add_payload(Entry& entry) {
  change(entry, [](Entry& it) { ++it.payloads; });
}

// Lets go of a blob that nobody uses; `entry` may be gone then.
void BlobKeeper::settle(Entry& entry) {
  if (entry.handles > 0 || entry.payloads > 0 || entry.writing) return;
  Release release{std::move(entry.source)};
  const BlobName name = release.source.name;
  if (entry.origin == Origin::written) {
    used_bytes_ -= name.size_bytes;
    if (release.source.place == BlobPlace::memory) memory_bytes_ -= name.size_bytes;
  }
  entries_.erase(name.id);
  released_bytes_ += name.size_bytes;
  order(std::move(release));
  changed_.notify_all();
}

Blob BlobKeeper::handle_of(Entry& entry) {
  std::shared_ptr<const KeptFile> file = entry.handle.lock();
  if (!file) {
    file = std::make_shared<const KeptFile>(shared_from_this(), entry.source);
    entry.handle = file;
    change(entry, [](Entry& it) { ++it.handles; });
  }
  return Blob(std::move(file));
}

void BlobKeeper::handle_gone(const BlobId& id) {
  if (::getpid() != process_) return;  // a copy of the handle in a forked child
  Lock lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  change(found->second, [](Entry& it) { --it.handles; });
  settle(found->second);
  ring(lock);
}

void BlobKeeper::payload_gone(const std::vector<BlobId>& ids) {
  if (::getpid() != process_) return;
  Lock lock(mutex_);
  for (const BlobId& id : ids) {
    const auto found = entries_.find(id);
    if (found == entries_.end()) continue;
    change(found->second, [](Entry& it) { --it.payloads; });
    settle(found->second);
  }
  ring(lock);
}

// --- Orders

void BlobKeeper::order(Order&& order) {
  if (closed_) return;
  const bool is_put = std::holds_alternative<BlobSource>(order);
  const bool now = is_put || released_bytes_ >= kReleaseBytes || waiters_ > 0;
  const Time due = now ? Time{0} : clock_now() + kReleaseWindow;
  orders_.push_back(std::move(order));
  if (due < orders_due()) due_.store(due.count(), std::memory_order_release);
}

// After orders: the client's thread may sleep beyond the time at which they are due.
void BlobKeeper::ring(Lock& lock) {
  if (wake_ && !orders_.empty()) wake_();
  lock.unlock();
}

std::vector<BlobKeeper::Order> BlobKeeper::take_orders(Time now) {
  if (orders_due() > now) return {};
  const std::lock_guard lock(mutex_);
  due_.store(kNever.count(), std::memory_order_release);
  released_bytes_ = 0;
  return std::exchange(orders_, {});
}

void BlobKeeper::discard(const BlobSource& source) {
  const std::lock_guard lock(mutex_);
  discard_blob(folders_, source);
}

// --- Putting

Blob BlobKeeper::scatter(std::span<const std::byte> content, Deadline deadline) {
  if (!shares()) check_usable();
  return put(name_of(content), writer_of(content), deadline);
}

Blob BlobKeeper::scatter_copy(const std::string& path) {
  if (!shares()) check_usable();
  const FileContent content(path);
  return put(content.name(), content.writer());
}

Blob BlobKeeper::scatter_file(const std::string& path, std::uint64_t offset,
                              std::uint64_t size_bytes) {
  BlobSource source = describe_file(path, offset, size_bytes);
  if (!others_.load(std::memory_order_relaxed)) return put_file(std::move(source));
  if (!shares()) check_usable();
  const FileContent content(path, offset, source.name.size_bytes);
  return put(content.name(), content.writer());
}

// The blob, unless it is not here, once nobody writes it any more.
BlobKeeper::Entry* BlobKeeper::find_ready(Lock& lock, const BlobId& id) {
  for (;;) {
    check_usable();
    const auto found = entries_.find(id);
    if (found == entries_.end()) return nullptr;
    if (!found->second.writing) return &found->second;
    changed_.wait(lock);
  }
}

Blob BlobKeeper::put(const BlobName& name, const ContentWriter& content, Deadline deadline) {
  Lock lock(mutex_);
  for (;;) {
    Entry* entry = find_ready(lock, name.id);
    // Another thread may put it meanwhile.
    while (entry == nullptr && waits_until(name.size_bytes, true, clock_now()) != Time{}) {
      if (!make_room(lock, name.size_bytes, deadline, true)) return {};
      entry = find_ready(lock, name.id);
    }
    if (entry != nullptr && (entry->lost.empty() || entry->origin == Origin::result)) {
      return handle_of(*entry);
    }
    if (is_known_full(name.size_bytes)) {  // to wait costs less than to write in vain
      if (!await_files(lock, name.size_bytes, deadline)) return {};
      continue;
    }
    if (entry == nullptr) {
      entry = &entries_[name.id];
      entry->source.name = name;
      used_bytes_ += name.size_bytes;
      memory_short_ = {};
    } else {
      if (entry->source.place == BlobPlace::memory) memory_bytes_ -= name.size_bytes;
      entry->lost.clear();
    }
    entry->source.place = BlobPlace::kept;  // until it is written
    if (write(lock, *entry, content)) {
      Blob blob = handle_of(*entry);
      ring(lock);
      return blob;
    }
    if (!await_files(lock, name.size_bytes, deadline)) return {};
  }
}

// Unlocks meanwhile. False: both file systems are full. Then, and when it throws, the blob is let
// go of.
bool BlobKeeper::write(Lock& lock, Entry& entry, const ContentWriter& content) {
  const BlobName name = entry.source.name;
  const BlobFolders folders = folders_;
  const bool may_use_memory = memory_bytes_ + name.size_bytes <= credit_memory_bytes_;
  if (may_use_memory) memory_bytes_ += name.size_bytes;
  const std::string file = folders.incoming_name(name.id, ++last_file_);
  entry.writing = true;
  lock.unlock();
  std::variant<BlobPlace, WriteFault> written = BlobPlace::memory;
  if (const auto linked = link_blob(folders, name, file)) {
    written = *linked;
  } else {
    written = write_blob(folders, name, file, content, may_use_memory);
  }
  lock.lock();
  entry.writing = false;
  changed_.notify_all();
  const auto* place = std::get_if<BlobPlace>(&written);
  if (may_use_memory && (place == nullptr || *place != BlobPlace::memory)) {
    memory_bytes_ -= name.size_bytes;
  } else if (!may_use_memory && place != nullptr && *place == BlobPlace::memory) {
    memory_bytes_ += name.size_bytes;  // it was there already
  }
  if (place != nullptr) {
    entry.source.place = *place;
    entry.source.file = file;
    order(entry.source);
    files_full_.clear();
    files_short_ = {};
    return true;
  }
  const WriteFault& fault = std::get<WriteFault>(written);
  entry.lost = fault.text;
  settle(entry);
  if (!fault.is_full) throw Error(ErrorCode::out_of_space, "out_of_space", fault.text);
  files_full_ = fault.text;
  return false;
}

Blob BlobKeeper::put_file(BlobSource source) {
  Lock lock(mutex_);
  Entry* entry = find_ready(lock, source.name.id);
  if (entry == nullptr) {
    entry = &entries_[source.name.id];
    entry->origin = Origin::file;
    entry->source = std::move(source);
    order(entry->source);
  } else if (!std::exchange(entry->lost, {}).empty()) {
    order(entry->source);
  }
  Blob blob = handle_of(*entry);
  ring(lock);
  return blob;
}

// --- What the broker says

void BlobKeeper::take_terms(const BlobTerms& terms) {
  BlobFolders folders{"", "", owner_};
  if (terms.folders.size() == 2) {
    folders.memory = terms.folders[0];
    folders.disk = terms.folders[1];
  }
  const bool shares = shares_folders(folders, terms.token);
  const std::lock_guard lock(mutex_);
  if (shares) folders_ = std::move(folders);
  credit_bytes_ = terms.credit_bytes;
  credit_memory_bytes_ = terms.credit_memory_bytes;
  shares_.store(shares, std::memory_order_relaxed);
  apart_.store(!shares, std::memory_order_relaxed);
  others_.store(shares && are_others(folders_), std::memory_order_relaxed);
  changed_.notify_all();
}

std::optional<BlobSource> BlobKeeper::answered(const BlobAnswer& answer) {
  std::shared_ptr<const KeptFile> handle;  // let go after the lock
  Bytes content;
  Lock lock(mutex_);
  if (answer.state == BlobState::refused) {  // its task may have ended for it already
    refusal_ = answer.text;
    refused_.store(true, std::memory_order_relaxed);
  }
  const auto found = entries_.find(answer.id);
  if (found == entries_.end() || found->second.writing) return std::nullopt;
  Entry& entry = found->second;
  if (answer.state == BlobState::here) {
    entry.lost.clear();  // what was refused was an earlier put
    return std::nullopt;
  }
  if (answer.state == BlobState::refused || entry.origin != Origin::written || !shares()) {
    entry.lost = answer.text.empty() ? "the broker lost it" : answer.text;
    return std::nullopt;
  }
  handle = entry.handle.lock();
  const BlobName name = entry.source.name;
  const BlobFolders folders = folders_;
  if (is_incoming(folders, entry.source)) return entry.source;  // an earlier put's answer
  const std::string file = folders.incoming_name(name.id, ++last_file_);
  entry.writing = true;
  lock.unlock();
  std::optional<BlobPlace> place = link_blob(folders, name, file);
  try {
    if (!place && handle) {  // a map that somebody made has the content even if no folder has it
      content = handle->map_shared();
      const auto written = write_blob(folders, name, file, writer_of(content.span()), true);
      if (const auto* done = std::get_if<BlobPlace>(&written)) place = *done;
    }
  } catch (const BlobError&) {
  }
  lock.lock();
  entry.writing = false;
  changed_.notify_all();
  if (!place) {
    entry.lost = "the broker lost it, and nothing here has its content any more";
    settle(entry);
    return std::nullopt;
  }
  if (entry.source.place == BlobPlace::memory) memory_bytes_ -= name.size_bytes;
  if (*place == BlobPlace::memory) memory_bytes_ += name.size_bytes;
  entry.source.place = *place;
  entry.source.file = file;
  BlobSource source = entry.source;
  settle(entry);
  return source;
}

bool BlobKeeper::awaited() const {
  const std::lock_guard lock(mutex_);
  return waiters_ > 0;
}

void BlobKeeper::fail(const Error& error) {
  const std::lock_guard lock(mutex_);
  ++failures_;
  failure_.emplace(error);
  changed_.notify_all();
}

void BlobKeeper::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  wake_ = nullptr;
  orders_.clear();
  due_.store(kNever.count(), std::memory_order_release);
  changed_.notify_all();
}

}  // namespace muster::detail
