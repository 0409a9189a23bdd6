// A part of a file of the user's that stands for a blob: the file stays where it is, and the disk
// folder of the blobs holds `<32 hex digits>.file` that says where, and how to see that it did not
// change meanwhile. Written by the broker's store, read by every process that opens the blob.
//
// Threads: every function may be called anywhere. Blocking: on disk input at most.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/system/descriptor.hpp"

namespace muster {

struct UserFile {
  std::string path;                // absolute
  std::uint64_t offset_bytes = 0;  // of the part
  std::uint64_t size_bytes = 0;    // of the part
  // Of the file when the blob was named.
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t file_bytes = 0;
  std::int64_t modified_ns = 0;
  bool operator==(const UserFile&) const = default;
};

// What `<hex>.file` holds: text, the path last.
std::string encode_user_file(const UserFile& file);
std::optional<UserFile> decode_user_file(std::string_view text);

// The file as it is now. Nothing: `error` says why the part cannot be used and what to do.
std::optional<UserFile> look_at_user_file(const std::string& path, std::uint64_t offset_bytes,
                                          std::uint64_t size_bytes, std::string& error);

// Opens it for reading. No descriptor: it is gone or another one now; `error` says which.
Descriptor open_user_file(const UserFile& file, std::string& error);

}  // namespace muster
