#include "worker/blobs/task_blobs.hpp"

#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <muster/shared.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "worker/blobs/blob_files.hpp"

namespace muster {
namespace {

constexpr int kMostVectors = 64;
constexpr std::chrono::milliseconds kLookForRoom{20};

// Returns errno.
int write_parts(int descriptor, std::span<const std::span<const std::byte>> parts) {
  std::array<iovec, kMostVectors> vectors;
  std::size_t next = 0;
  std::size_t offset = 0;  // in parts[next]
  while (true) {
    int count = 0;
    for (std::size_t i = next; i < parts.size() && count < kMostVectors; ++i) {
      const std::span<const std::byte> part = parts[i].subspan(i == next ? offset : 0);
      if (part.empty()) continue;
      vectors[static_cast<std::size_t>(count)] = {const_cast<std::byte*>(part.data()), part.size()};
      ++count;
    }
    if (count == 0) return 0;
    const ssize_t written = ::writev(descriptor, vectors.data(), count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    offset += static_cast<std::size_t>(written);
    while (next < parts.size() && offset >= parts[next].size()) offset -= parts[next++].size();
  }
}

}  // namespace

BlobHome BlobHome::from_environment() {
  const char* folder = std::getenv(kBlobsVariable);
  const char* owner = std::getenv("MUSTER_BLOB_OWNER");
  if (folder == nullptr || owner == nullptr) return {};
  return {folder, owner};
}

TaskBlobs::TaskBlobs(BlobHome home, Duration room_patience)
    : home_(std::make_shared<const BlobHome>(std::move(home))), room_patience_(room_patience) {}

bool TaskBlobs::shares_files() const {
  return available() && ::access((home_->folder + "/shares").c_str(), F_OK) == 0;
}

std::vector<Blob> TaskBlobs::open(const Payload& payload, Time now) {
  if (payload.blobs == 0) return {};
  if (!available()) {
    throw BlobError(
        "the arguments are in blobs, and this process was started without "
        "MUSTER_BLOBS: start muster-worker instead");
  }
  std::vector<Blob> known;
  {
    const std::lock_guard lock(mutex_);
    known = kept_;
  }
  std::vector<Blob> opened;
  opened.reserve(payload.blobs);
  for (std::size_t i = 0; i < payload.blobs; ++i) {
    const BlobName name = blob_at(payload, i);
    const auto found = std::find_if(known.begin(), known.end(), [&](const Blob& blob) {
      return blob.file()->high == name.id.high && blob.file()->low == name.id.low &&
             blob.size() == name.size_bytes;
    });
    opened.push_back(found != known.end() ? *found
                                          : Blob(std::make_shared<StoredBlob>(home_, name)));
    static_cast<void>(opened.back().bytes());  // maps it: from here on it cannot go away
  }
  const std::lock_guard lock(mutex_);
  kept_ = opened;
  kept_until_ = now + kKeptMaps;
  return opened;
}

std::variant<OpenPayload, Failure> TaskBlobs::unpack(const Payload& payload, const char* what,
                                                     Time now) {
  OpenPayload open_payload;
  try {
    open_payload.blobs = open(payload, now);
  } catch (const BlobError& error) {
    return blob_failure(error);
  }
  if (is_one_blob(payload)) {
    open_payload.body = open_payload.blobs.front().bytes();
    open_payload.blobs.clear();
    return open_payload;
  }
  std::optional<Bytes> body = unpack_payload(payload);
  if (!body) return Failure{"bad_arguments", fmt::format("the packed {} is damaged", what), "", {}};
  open_payload.body = std::move(*body);
  return open_payload;
}

void TaskBlobs::tick(Time now) {
  std::vector<Blob> ended;  // outside the lock
  const std::lock_guard lock(mutex_);
  if (now < kept_until_) return;
  ended.swap(kept_);
  kept_until_ = kNever;
}

Time TaskBlobs::next_deadline() const {
  const std::lock_guard lock(mutex_);
  return kept_until_;
}

Blob TaskBlobs::make(std::span<const std::span<const std::byte>> parts) const {
  std::uint64_t size_bytes = 0;
  for (const std::span<const std::byte>& part : parts) size_bytes += part.size();
  if (!available()) {
    throw NoRoomError(
        "there is no place for large results: this process was started without "
        "MUSTER_BLOBS; start muster-worker instead");
  }
  const BlobName name = random_name(size_bytes);
  const auto give_up = std::chrono::steady_clock::now() + room_patience_;
  for (;;) {
    for (const char* place : kResultPlaces) {
      if (!has_room(*home_, place, size_bytes)) continue;
      IncomingFile file(home_, place, name);
      int error = file.create();
      if (error == 0) error = write_parts(file.descriptor(), parts);
      if (error == 0) return file.finish();
      if (!is_full(error)) throw_unwritable(file.path(), error);
    }
    // Results that the program consumes make room; for one that is too large none ever does.
    const bool fits =
        std::any_of(kResultPlaces.begin(), kResultPlaces.end(),
                    [&](const char* place) { return fits_at_all(*home_, place, size_bytes); });
    if (!fits || std::chrono::steady_clock::now() >= give_up) throw_no_room(*home_, size_bytes);
    std::this_thread::sleep_for(kLookForRoom);
  }
}

// The blobs that an outcome is about to name.
class TaskBlobs::Delivery {
 public:
  explicit Delivery(const TaskBlobs& blobs) : blobs_(blobs) {}
  ~Delivery() {
    if (done_) return;
    for (const Blob& blob : own_) made(blob).unclaim();
  }
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  void add(const Blob& blob) {
    const auto* own = dynamic_cast<const ResultBlob*>(blob.file().get());
    if (own != nullptr && own->claim()) {
      own_.push_back(blob);
    } else {
      add_content(blob.bytes());
    }
  }
  void add_content(const Bytes& content) {
    const std::span<const std::byte> part = content.span();
    own_.push_back(blobs_.make({&part, 1}));
    made(own_.back()).claim();
  }
  std::vector<BlobName> deliver() {
    std::vector<BlobName> names;
    for (const Blob& blob : own_) {
      made(blob).link();
      names.push_back({{made(blob).high, made(blob).low}, made(blob).size_bytes});
    }
    for (const Blob& blob : own_) made(blob).deliver();
    done_ = true;
    return names;
  }

 private:
  static const ResultBlob& made(const Blob& blob) {
    return dynamic_cast<const ResultBlob&>(*blob.file());
  }

  const TaskBlobs& blobs_;
  std::vector<Blob> own_;
  bool done_ = false;
};

Payload TaskBlobs::payload_of(Bytes body, const std::vector<Blob>& blobs,
                              bool inline_results) const {
  if (inline_results && !blobs.empty()) {
    throw TooLargeError(
        "the result has parts that are blobs, and the program that asked for it does not share the "
        "broker's folders: return their content, or run the program where it sees them");
  }
  const bool as_blob =
      !inline_results && blobs.empty() && body.size() > limits::kMaxBodyBytes && available();
  if (blobs.size() > limits::kMaxPayloadBlobs) {
    throw TooLargeError(fmt::format("the result has {} large parts; at most {} can travel",
                                    blobs.size(), limits::kMaxPayloadBlobs));
  }
  const std::size_t most_bytes = limits::kMaxPayloadBytes - blobs.size() * limits::kBlobNameBytes;
  if (body.size() > most_bytes && !as_blob) {
    throw TooLargeError(fmt::format(
        "the result has {} bytes besides its large parts; at most {} can travel in one message",
        body.size(), most_bytes));
  }
  if (blobs.empty() && !as_blob) return {std::move(body), 0};
  Delivery delivery(*this);
  for (const Blob& blob : blobs) delivery.add(blob);
  if (as_blob) delivery.add_content(std::exchange(body, {}));
  return with_blobs(delivery.deliver(), {std::move(body), 0});
}

void discard_result(const BlobHome& home, const Payload& payload) {
  if (home.folder.empty()) return;
  for (std::size_t i = 0; i < payload.blobs; ++i) {
    for (const char* place : kResultPlaces) {
      ::unlink(incoming_path(home, place, blob_at(payload, i).id).c_str());
    }
  }
}

std::uint64_t size_of_result(const Bytes& body, const std::vector<Blob>& blobs) {
  std::uint64_t total = body.size();
  for (const Blob& blob : blobs) total += blob.size();
  return total;
}

Failure blob_failure(const BlobError& error) {
  const char* kind = "blob_lost";
  if (dynamic_cast<const NoRoomError*>(&error) != nullptr) kind = "no_room";
  if (dynamic_cast<const TooLargeError*>(&error) != nullptr) kind = "result_too_large";
  return {kind, error.what(), "", {}};
}

}  // namespace muster
