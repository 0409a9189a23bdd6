// The names of blobs in front of a payload's body (message.hpp, Payload; docs/protocol.md,
// "Payloads with blobs"). Pure. Thread rule: every function may be called anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/protocol/message.hpp"

namespace muster {

// A payload of these blobs and this body, which may be packed and has no blobs of its own.
Payload with_blobs(std::span<const BlobName> names, const Payload& body);

// Precondition: index < payload.blobs.
BlobName blob_at(const Payload& payload, std::size_t index);

// The body alone, still packed if it is.
Payload body_of(const Payload& payload);

// Whether the payload stands for the content of its only blob.
inline bool is_one_blob(const Payload& payload) {
  return payload.blobs == 1 && payload.bytes.size() == limits::kBlobNameBytes;
}

// The name that content has: XXH3-128 with seed 0 (https://xxhash.com). Takes about 0.1 ms per MB.
BlobId digest_of(std::span<const std::byte> content);

// The same, of content that comes piece by piece, and its size.
class BlobDigest {
 public:
  BlobDigest();
  ~BlobDigest();
  BlobDigest(const BlobDigest&) = delete;
  BlobDigest& operator=(const BlobDigest&) = delete;
  void add(std::span<const std::byte> piece);
  BlobName name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::uint64_t size_bytes_ = 0;
};

}  // namespace muster
