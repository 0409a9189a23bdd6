#include "worker/blobs/blob_cache.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "common/protocol/codec.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

// Begun at once, each with an open file: of any size, and small ones beside them.
constexpr std::size_t kMostBegun = 32;
constexpr std::size_t kMostSmallBegun = 64;
constexpr std::uint64_t kSmallBytes = std::uint64_t{4} << 20;
// The one with the least left comes first, but for every so-many-th piece, which is of the oldest.
constexpr std::uint64_t kOldestTurn = 4;
// As long as the broker itself waits for producers after a restart (session grace), and between
// two questions.
constexpr Duration kRestartPatience = std::chrono::seconds(60);
constexpr Duration kAskAgain = std::chrono::milliseconds(500);
constexpr Duration kTryRoomAgain = std::chrono::seconds(1);

}  // namespace

BlobCache::BlobCache(BlobFolder& folder, std::string owner, std::uint64_t most_bytes)
    : folder_(folder), owner_(std::move(owner)), most_bytes_(most_bytes) {}

// --- The agent's wishes -------------------------------------------------------------------------

void BlobCache::obey(const BlobRequest& request, Time now) {
  switch (request.kind) {
    case BlobRequest::Kind::fetch:
      fetch(request.name);
      break;
    case BlobRequest::Kind::release:
      ++releases_;
      release(request.name, now);
      break;
    case BlobRequest::Kind::keep:
      keep(request.name);
      break;
    case BlobRequest::Kind::drop:
      ++releases_;
      drop(request.name, now);
      break;
  }
  go_on(now);
}

void BlobCache::fetch(const BlobName& name) {
  if (here_.count(name.id) != 0 || coming_.count(name.id) != 0) return;
  if (folder_.holds(name.id)) {
    arrived(name.id);
    return;
  }
  if (name.size_bytes > most_bytes_) {
    reports_.push_back({BlobReport::Kind::gone, name.id,
                        "this worker's cache takes blobs of at most " +
                            std::to_string(most_bytes_) +
                            " bytes: raise its --blob-memory or --blob-disk"});
    return;
  }
  Coming coming;
  coming.name = name;
  coming.order = next_order_++;
  coming.left = name.size_bytes;
  pending_[coming.order] = name.id;
  if (name.size_bytes <= kSmallBytes) small_pending_[coming.order] = name.id;
  coming_.emplace(name.id, std::move(coming));
}

void BlobCache::release(const BlobName& name, Time now) {
  if (here_.erase(name.id) != 0) {
    folder_.unpin(name.id, true, now);
  } else if (coming_.count(name.id) != 0) {
    forget(name.id);
  }
}

void BlobCache::keep(const BlobName& name) {
  if (results_.count(name.id) != 0) return;
  const std::string error = folder_.adopt_from(name, owner_);
  results_[name.id] = error;  // the broker hears it when it asks for the blob
  if (error.empty()) folder_.pin(name.id);
}

void BlobCache::drop(const BlobName& name, Time now) {
  const auto found = results_.find(name.id);
  if (found == results_.end()) return;
  if (found->second.empty()) folder_.unpin(name.id, false, now);
  results_.erase(found);
}

// --- The connection -----------------------------------------------------------------------------

void BlobCache::connected(Time now) {
  disconnected();
  connected_ = true;
  go_on(now);
}

void BlobCache::be_patient(Time now) { patient_until_ = now + kRestartPatience; }

void BlobCache::disconnected() {
  connected_ = false;
  messages_.clear();  // questions among them are in `asked_`, too
  for (const Asked& asked : std::exchange(asked_, {})) {
    const auto found = coming_.find(asked.blob);
    if (asked.wanted && found != coming_.end()) found->second.again.push_back(asked.piece);
  }
}

void BlobCache::receive(message::BlobChunk& chunk, Time now) {
  const auto found = std::find_if(asked_.begin(), asked_.end(), [&](const Asked& each) {
    return each.blob == chunk.blob && each.piece.offset == chunk.offset;
  });
  if (found == asked_.end()) return;
  const auto [blob, piece, wanted] = *found;
  asked_.erase(found);
  if (!wanted) {
    go_on(now);
    return;
  }
  const std::optional<Bytes> bytes = unpack_payload(chunk.content);
  if (!bytes || bytes->size() != piece.bytes) {
    start_over(chunk.blob, "the broker sent a damaged piece of it");
    go_on(now);
    return;
  }
  const std::string error =
      folder_.write(chunk.blob, chunk.offset, std::span(bytes->data(), bytes->size()));
  if (!error.empty()) {
    start_over(chunk.blob, error);
    go_on(now);
    return;
  }
  Coming& coming = coming_.at(chunk.blob);
  coming.left -= piece.bytes;
  if (coming.left == 0) end(chunk.blob);
  go_on(now);
}

void BlobCache::receive(const message::BlobGone& gone, Time now) {
  const auto found = std::find_if(asked_.begin(), asked_.end(),
                                  [&](const Asked& each) { return each.blob == gone.blob; });
  if (found == asked_.end()) return;
  if (!found->wanted) {
    asked_.erase(found);
  } else if (now < patient_until_) {
    put_back(gone.blob);
    asked_.erase(found);
    coming_.at(gone.blob).not_before = now + kAskAgain;
  } else {
    fail(gone.blob, gone.reason);
    asked_.erase(found);
  }
  go_on(now);
}

void BlobCache::receive(const message::BlobWant& want) {
  std::shared_ptr<std::byte[]> buffer = std::make_shared_for_overwrite<std::byte[]>(want.bytes);
  const auto result = results_.find(want.blob);
  std::string error = result == results_.end() ? "" : result->second;
  if (error.empty()) {
    error = folder_.read(want.blob, want.offset, std::span(buffer.get(), want.bytes));
  }
  if (!error.empty()) {
    messages_.emplace_back(message::BlobGone{want.blob, error.substr(0, limits::kMaxTextBytes)});
    return;
  }
  const std::span<const std::byte> view(buffer.get(), want.bytes);
  messages_.emplace_back(
      message::BlobChunk{want.blob, want.offset, {Bytes(std::move(buffer), view), 0, 0}});
}

// --- What comes ---------------------------------------------------------------------------------

void BlobCache::go_on(Time now) {
  begin_some(now);
  ask_for_pieces(now);
}

// Makes room and files, in the order of the wishes, so that the leases that came first get all that
// they need; small blobs do not wait for room for large ones.
void BlobCache::begin_some(Time now) {
  try_again_ = kNever;
  while (!pending_.empty() && begun_.size() < kMostBegun) {
    if (!begin(coming_.at(pending_.begin()->second))) break;
  }
  while (!small_pending_.empty() && begun_.size() < kMostSmallBegun) {
    if (!begin(coming_.at(small_pending_.begin()->second))) break;
  }
  if (pending_.empty() || begun_.size() >= kMostBegun) return;
  try_again_ = now + kTryRoomAgain;
}

bool BlobCache::begin(Coming& coming) {
  const BlobName name = coming.name;
  const std::string error = folder_.begin(name);
  if (!error.empty()) {
    const bool is_first = pending_.begin()->second == name.id;
    const bool is_news = blocked_.blob != name.id || blocked_.releases != releases_;
    // While others come there will be news of them first.
    if (!is_first || !is_news || !begun_.empty()) return false;
    blocked_ = {BlobReport::Kind::blocked, name.id, error, releases_};
    reports_.push_back(blocked_);
    return false;
  }
  if (blocked_.blob == name.id) blocked_ = {};
  pending_.erase(coming.order);
  small_pending_.erase(coming.order);
  coming.begun = true;
  begun_.push_back(name.id);
  if (name.size_bytes == 0) end(name.id);
  return true;
}

void BlobCache::ask_for_pieces(Time now) {
  while (connected_ && asked_.size() < limits::kBlobChunksAhead) {
    Coming* coming = next_to_ask(now);
    if (coming == nullptr) return;
    Piece piece;
    if (!coming->again.empty()) {
      piece = coming->again.back();
      coming->again.pop_back();
    } else {
      const std::uint64_t rest = coming->name.size_bytes - coming->next;
      piece.offset = coming->next;
      piece.bytes =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(rest, limits::kBlobChunkBytes));
      coming->next += piece.bytes;
    }
    asked_.push_back({coming->name.id, piece});
    messages_.emplace_back(message::BlobWant{coming->name.id, piece.offset, piece.bytes});
  }
}

BlobCache::Coming* BlobCache::next_to_ask(Time now) {
  Coming* least = nullptr;
  Coming* oldest = nullptr;
  for (const BlobId& id : begun_) {
    Coming& coming = coming_.at(id);
    if (!lacks_pieces(coming, now)) continue;
    if (least == nullptr || coming.left < least->left) least = &coming;
    if (oldest == nullptr || coming.order < oldest->order) oldest = &coming;
  }
  if (least == nullptr) return nullptr;
  return ++turns_ % kOldestTurn == 0 ? oldest : least;
}

bool BlobCache::lacks_pieces(const Coming& coming, Time now) const {
  return now >= coming.not_before &&
         (!coming.again.empty() || coming.next < coming.name.size_bytes);
}

// What was asked for of this blob is to be asked for again.
void BlobCache::put_back(const BlobId& id) {
  Coming& coming = coming_.at(id);
  for (const Asked& asked : asked_) {
    if (asked.blob == id && asked.wanted) coming.again.push_back(asked.piece);
  }
  stop_wanting(id);
}

void BlobCache::stop_wanting(const BlobId& id) {
  for (Asked& asked : asked_) {
    if (asked.blob == id) asked.wanted = false;
  }
}

// Every byte came.
void BlobCache::end(const BlobId& id) {
  const std::string error = folder_.finish(id);
  if (!error.empty()) {
    start_over(id, error);
    return;
  }
  std::erase(begun_, id);
  coming_.erase(id);
  arrived(id);
}

void BlobCache::arrived(const BlobId& id) {
  folder_.pin(id);
  here_.insert(id);
  reports_.push_back({BlobReport::Kind::here, id});
}

void BlobCache::fail(const BlobId& id, const std::string& reason) {
  forget(id);
  reports_.push_back({BlobReport::Kind::gone, id, reason});
}

// From its first byte on; once.
void BlobCache::start_over(const BlobId& id, const std::string& reason) {
  const Coming coming = coming_.at(id);
  forget(id);
  if (coming.failed_once) {
    reports_.push_back({BlobReport::Kind::gone, id, reason});
  } else {
    fetch(coming.name);
    coming_.at(id).failed_once = true;
  }
}

void BlobCache::forget(const BlobId& id) {
  const auto found = coming_.find(id);
  const Coming& coming = found->second;
  stop_wanting(id);
  if (coming.begun) {
    folder_.abandon(id);
    std::erase(begun_, id);
  } else {
    pending_.erase(coming.order);
    small_pending_.erase(coming.order);
  }
  coming_.erase(found);
}

// --- Time and output ----------------------------------------------------------------------------

void BlobCache::tick(Time now) {
  for (const BlobId& id : folder_.tick(now)) {
    reports_.push_back({BlobReport::Kind::evicted, id});
  }
  go_on(now);
}

Time BlobCache::next_deadline() const {
  Time next = std::min(folder_.next_deadline(), try_again_);
  for (const BlobId& id : begun_) {
    const Time not_before = coming_.at(id).not_before;
    if (not_before > Time{} && asked_.empty()) next = std::min(next, not_before);
  }
  return next;
}

std::vector<Message> BlobCache::take_messages() { return std::exchange(messages_, {}); }
std::vector<BlobReport> BlobCache::take_reports() { return std::exchange(reports_, {}); }

}  // namespace muster
