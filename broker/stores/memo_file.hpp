// The end of a value's file, which follows its content: what is said of it, its store and key, and
// a foot of fixed size with the digests of both parts. Private to the memo store's sources.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "broker/stores/memo_claims.hpp"

namespace muster {

struct MemoFileEnd {
  MemoName name;
  std::string text;
  std::uint64_t content_bytes = 0;
  std::uint64_t digest_high = 0;  // XXH3-128 of the content
  std::uint64_t digest_low = 0;
};

std::string encode_end(const MemoFileEnd& end);
// Nothing: this is no such file, or not all of one.
std::optional<MemoFileEnd> read_end(int file, std::uint64_t file_bytes);

struct FreeDigest {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};
using Digest = std::unique_ptr<XXH3_state_t, FreeDigest>;
Digest begin_digest();

// All of it, from `offset` on; an errno, 0: done.
int write_all(int file, const void* data, std::size_t size_bytes);
bool read_all(int file, void* data, std::size_t size_bytes, std::uint64_t offset);

// Reads the first bytes of the file; false: they are not there.
bool add_to_digest(const Digest& digest, int file, std::uint64_t size_bytes);
bool has_digest(int file, const MemoFileEnd& end);

void remove_folder(const std::string& folder);        // with all that is in it
void remove_empty_folder(const std::string& folder);  // of a store without values

}  // namespace muster
