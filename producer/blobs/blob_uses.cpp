// Payloads that keep their blobs, and what handles open.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "common/system/descriptor.hpp"
#include "producer/blobs/blob_keeper.hpp"
#include "producer/blobs/kept_file.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster::detail {

// Owns the bytes of a payload: its end is the end of one use of each of its blobs.
struct PayloadUses {
  PayloadUses(std::shared_ptr<BlobKeeper> its_keeper, std::vector<BlobId> its_blobs,
              Bytes its_bytes)
      : keeper(std::move(its_keeper)), blobs(std::move(its_blobs)), bytes(std::move(its_bytes)) {}
  ~PayloadUses() { keeper->payload_gone(blobs); }
  PayloadUses(const PayloadUses&) = delete;
  PayloadUses& operator=(const PayloadUses&) = delete;

  const std::shared_ptr<BlobKeeper> keeper;
  const std::vector<BlobId> blobs;
  const Bytes bytes;
};

namespace {

// Owns the bytes of an outcome's body.
struct HeldOutcome {
  Bytes bytes;
  std::vector<Blob> blobs;
};

}  // namespace

// The blob's id here. One of another producer, or that a task was given, is put here as well.
BlobId BlobKeeper::own(const Blob& blob, std::vector<Blob>& put_here) {
  if (!blob) throw invalid_call("an empty Blob cannot be an argument");
  const BlobFile& file = *blob.file();
  const auto* kept = dynamic_cast<const KeptFile*>(&file);
  if (kept == nullptr || kept->keeper.get() != this) {
    const bool is_file = kept != nullptr && kept->source.place == BlobPlace::file &&
                         !others_.load(std::memory_order_relaxed);
    put_here.push_back(is_file ? put_file(kept->source)
                               : put({{file.high, file.low}, file.size_bytes},
                                     writer_of(blob.bytes().span()), std::nullopt));
  }
  return {file.high, file.low};
}

Payload BlobKeeper::use(const std::vector<Blob>& blobs, const Payload& body) {
  if (blobs.size() > limits::kMaxPayloadBlobs) {
    throw invalid_call(fmt::format("a task has {} blobs; the limit is {}", blobs.size(),
                                   limits::kMaxPayloadBlobs));
  }
  std::vector<Blob> put_here;
  std::vector<BlobId> ids;
  std::vector<BlobName> names;
  ids.reserve(blobs.size());
  names.reserve(blobs.size());
  try {
    for (const Blob& blob : blobs) {
      ids.push_back(own(blob, put_here));
      names.push_back({ids.back(), blob.size()});
    }
  } catch (const BlobError& error) {
    throw Error(ErrorCode::invalid, "blob_lost", error.what());
  }
  Payload payload = with_blobs(names, body);
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw Error(ErrorCode::disconnected, "closed", "the Producer was destroyed");
    for (const BlobId& id : ids) {
      const Entry& entry = entries_.at(id);
      if (entry.lost.empty()) continue;
      throw Error(
          ErrorCode::invalid, "blob_lost",
          fmt::format("blob {} cannot be used: {}; scatter it again", to_hex(id), entry.lost));
    }
    for (const BlobId& id : ids) add_payload(entries_.at(id));
  }
  const std::span<const std::byte> view = payload.bytes.span();
  payload.bytes = Bytes(
      std::make_shared<PayloadUses>(shared_from_this(), std::move(ids), std::move(payload.bytes)),
      view);
  return payload;
}

void BlobKeeper::hold(Payload& body) {
  if (body.blobs == 0) return;
  auto held = std::make_shared<HeldOutcome>();
  held->blobs.reserve(body.blobs);
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < body.blobs; ++i) {
      const BlobName name = blob_at(body, i);
      const auto [found, is_new] = entries_.try_emplace(name.id);
      if (is_new) {
        found->second.origin = Origin::result;
        found->second.source = {name, BlobPlace::kept};
      }
      held->blobs.push_back(handle_of(found->second));
    }
  }
  const std::span<const std::byte> view = body.bytes.span();
  held->bytes = std::move(body.bytes);
  body.bytes = Bytes(std::move(held), view);
}

void BlobKeeper::explain(Outcome& outcome) const {
  if (outcome.status != OutcomeStatus::error || !refused_.load(std::memory_order_relaxed)) return;
  const std::optional<Bytes> body = unpack_payload(outcome.body);
  if (!body || outcome.body.blobs > 0) return;
  Failure failure = decode_failure(*body);
  if (failure.kind != "blob_lost") return;
  const std::lock_guard lock(mutex_);
  failure.message += "; the broker has refused a blob: " + refusal_;
  outcome = failed(OutcomeStatus::error, failure);
}

std::vector<Blob> take_blobs(Payload& body) {
  if (body.blobs == 0) return {};
  const auto held = std::static_pointer_cast<const HeldOutcome>(body.bytes.owner());
  CHECK(held != nullptr);
  body.bytes = held->bytes;
  return held->blobs;
}

BlobFile::Opened BlobKeeper::open(const KeptFile& file) {
  const BlobSource& source = file.source;
  if (source.place == BlobPlace::file) {
    const int descriptor = ::open(source.file.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) return {descriptor, source.offset};
    throw BlobError(fmt::format("{} cannot be read: {}", source.file, std::strerror(errno)));
  }
  BlobFolders folders;
  BlobSource now = source;
  {
    const std::lock_guard lock(mutex_);
    folders = folders_;
    const auto found = entries_.find(source.name.id);
    if (found != entries_.end()) now = found->second.source;  // it may have been written again
  }
  if (folders.memory.empty()) {
    throw BlobError(fmt::format(
        "blob {} is a file of the broker's, whose folders this program does not see or may not "
        "enter: run it where it may",
        to_hex(source.name.id)));
  }
  if (const auto opened = open_blob(folders, now)) return *opened;
  throw BlobError(
      fmt::format("blob {} is not in {} nor in {}: its producer or its broker has "
                  "ended, or something else removed it",
                  to_hex(source.name.id), folders.memory, folders.disk));
}

}  // namespace muster::detail
