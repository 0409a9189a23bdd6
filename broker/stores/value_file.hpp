// The end of a value's file, which follows its content: what is said of it, its store and key, and
// a foot of fixed size with the digests of both parts. Private to the sources of stores.
//
// What can go wrong with a file is an errno here, 0: nothing did.
#pragma once

#include <sys/stat.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "broker/stores/store_claims.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

struct ValueFileEnd {
  ValueName name;
  std::string text;
  std::uint64_t content_bytes = 0;
  std::uint64_t digest_high = 0;  // XXH3-128 of the content
  std::uint64_t digest_low = 0;
};

std::string encode_end(const ValueFileEnd& end);

// The file was read: it is not a value's, not all of one, or not as it was written.
inline constexpr int kNotAsWritten = EBADMSG;
// Whether there is no value in the file, now and later. With other errors it may be whole: there
// are no descriptors or no memory left, a disk fails, a permission lacks.
bool is_damage(int error);
std::string describe_value_error(int error);

// Opens a value's file and reads its end.
int open_value(const std::string& path, Descriptor& file, struct stat& status, ValueFileEnd& end);

struct FreeDigest {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};
using Digest = std::unique_ptr<XXH3_state_t, FreeDigest>;
Digest begin_digest();

int write_all(int file, const void* data, std::size_t size_bytes);
int read_all(int file, void* data, std::size_t size_bytes, std::uint64_t offset);

// Reads the first bytes of the file.
int add_to_digest(const Digest& digest, int file, std::uint64_t size_bytes);
// Whether the content has the digest that its end says.
int check_digest(int file, const ValueFileEnd& end);

}  // namespace muster
