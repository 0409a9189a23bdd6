#include "common/protocol/blob_names.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <memory>
#include <utility>

#include "common/protocol/codec_wire.hpp"

namespace muster {

Payload with_blobs(std::span<const BlobName> names, const Payload& body) {
  const std::size_t names_bytes = names.size() * limits::kBlobNameBytes;
  const std::size_t size_bytes = names_bytes + body.bytes.size();
  std::shared_ptr<std::byte[]> buffer = std::make_shared_for_overwrite<std::byte[]>(size_bytes);
  char* out = reinterpret_cast<char*>(buffer.get());
  for (const BlobName& name : names) {
    wire::store_be64(out, name.id.high);
    wire::store_be64(out + 8, name.id.low);
    wire::store_be64(out + 16, name.size_bytes);
    out += limits::kBlobNameBytes;
  }
  if (!body.bytes.empty()) std::memcpy(out, body.bytes.data(), body.bytes.size());
  const std::span<const std::byte> view(buffer.get(), size_bytes);
  return {Bytes(std::move(buffer), view), body.unpacked_bytes,
          static_cast<std::uint32_t>(names.size())};
}

BlobName blob_at(const Payload& payload, std::size_t index) {
  const char* at = payload.bytes.text().data() + index * limits::kBlobNameBytes;
  return {{wire::load_be64(at), wire::load_be64(at + 8)}, wire::load_be64(at + 16)};
}

Payload body_of(const Payload& payload) {
  const std::size_t names_bytes = payload.blobs * limits::kBlobNameBytes;
  return {payload.bytes.slice(names_bytes, payload.bytes.size() - names_bytes),
          payload.unpacked_bytes, 0};
}

namespace {

// An id of zeros is none: content that hashes to it gets another one.
BlobId id_of(const XXH128_hash_t& hash) {
  if (hash.high64 == 0 && hash.low64 == 0) return {0, 1};
  return {hash.high64, hash.low64};
}

}  // namespace

BlobId digest_of(std::span<const std::byte> content) {
  return id_of(XXH3_128bits(content.data(), content.size()));
}

struct BlobDigest::State {
  XXH3_state_t hash;
};

BlobDigest::BlobDigest() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->hash); }
BlobDigest::~BlobDigest() = default;

void BlobDigest::add(std::span<const std::byte> piece) {
  XXH3_128bits_update(&state_->hash, piece.data(), piece.size());
  size_bytes_ += piece.size();
}

BlobName BlobDigest::name() const {
  return {id_of(XXH3_128bits_digest(&state_->hash)), size_bytes_};
}

}  // namespace muster
