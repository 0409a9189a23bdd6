// Blob: a handle to immutable bytes that many tasks share. Part of both public faces.
//
//   muster::Blob matrix = producer.scatter(std::span(values));         // once, to the pool
//   auto sum = producer.submit<double>("row_sum", matrix, 17);         // a name travels
//   double row_sum(const muster::Blob& matrix, int row) { auto v = matrix.as<double>(); ... }
//
// Copies share the blob. A producer's handle keeps the blob in the pool until the last copy is
// gone; a task's is valid during its call. The bytes are a read-only map of a file which all
// processes of the node share, made at the first use.
// Threads: a Blob is a value; distinct copies may be used and destroyed on any threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <muster/bytes.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace muster {

// The bytes of a blob cannot be had: the text says why and what to do.
class BlobError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

// What is behind a Blob: its name, and how its file is opened. It ends with the last handle.
// Plug-ins link nothing of Muster, and so reach the rest through the virtual functions.
class BlobFile {
 public:
  BlobFile(std::uint64_t id_high, std::uint64_t id_low, std::uint64_t content_bytes)
      : high(id_high), low(id_low), size_bytes(content_bytes) {}
  BlobFile(const BlobFile&) = delete;
  BlobFile& operator=(const BlobFile&) = delete;
  virtual ~BlobFile() = default;
  // Where the content is: a file that is open for reading, which the caller closes, and the offset
  // in it. Throws BlobError.
  struct Opened {
    int descriptor = -1;
    std::uint64_t offset_bytes = 0;
  };
  virtual Opened open() const = 0;
  // A read-only map, which all callers of this process share while it lives, at least as long as
  // this object; and a private one, which its owner may write. Throw BlobError.
  virtual Bytes map_shared() const;
  virtual std::shared_ptr<std::byte> map_private() const;

  const std::uint64_t high;  // the id
  const std::uint64_t low;
  const std::uint64_t size_bytes;

 private:
  // Of the whole content, from map_shared() on; guarded by a lock of all maps.
  mutable std::shared_ptr<const void> map_;
  mutable std::span<const std::byte> content_;
};

}  // namespace detail

class Blob {
 public:
  Blob() = default;
  explicit Blob(std::shared_ptr<const detail::BlobFile> file) : file_(std::move(file)) {}

  explicit operator bool() const { return file_ != nullptr; }
  std::uint64_t size() const { return file_ ? file_->size_bytes : 0; }
  // The content. Blocks on input and output at most; throws BlobError. Valid while any copy of this
  // blob or of the Bytes lives.
  Bytes bytes() const { return file_ ? file_->map_shared() : Bytes(); }
  // The content as values of T. Throws BlobError if its size is not a multiple of T's.
  template <typename T>
  std::span<const T> as() const {
    static_assert(std::is_trivially_copyable_v<T>, "only plain values can be viewed in place");
    const Bytes content = bytes();
    if (content.size() % sizeof(T) != 0) {
      throw BlobError("a blob of " + std::to_string(content.size()) +
                      " bytes does not consist of values of " + std::to_string(sizeof(T)));
    }
    if (reinterpret_cast<std::uintptr_t>(content.data()) % alignof(T) != 0) {
      throw BlobError("a part of a file that does not begin at a multiple of " +
                      std::to_string(alignof(T)) + " bytes cannot be viewed as such values");
    }
    return {reinterpret_cast<const T*>(content.data()), content.size() / sizeof(T)};
  }
  // A copy-on-write view of size() bytes: no other view sees what is written. Throws BlobError.
  std::shared_ptr<std::byte> copy_on_write() const {
    return file_ ? file_->map_private() : nullptr;
  }
  // Whether both are handles to one blob.
  bool is_same_as(const Blob& other) const {
    return file_ == other.file_ || (file_ && other.file_ && file_->high == other.file_->high &&
                                    file_->low == other.file_->low);
  }
  const std::shared_ptr<const detail::BlobFile>& file() const { return file_; }

 private:
  std::shared_ptr<const detail::BlobFile> file_;
};

}  // namespace muster
