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

// What is behind a Blob: its name, and how its file is opened. Its end tells that nobody needs it.
class BlobFile {
 public:
  BlobFile(std::uint64_t high, std::uint64_t low, std::uint64_t size_bytes)
      : high(high), low(low), size_bytes(size_bytes) {}
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

  const std::uint64_t high;  // the id
  const std::uint64_t low;
  const std::uint64_t size_bytes;
};

// A read-only map, shared by all who ask while it lives; a private one, which its owner may write.
Bytes map_shared(const std::shared_ptr<const BlobFile>& file);
std::shared_ptr<std::byte> map_private(const BlobFile& file);

}  // namespace detail

class Blob {
 public:
  Blob() = default;
  explicit Blob(std::shared_ptr<const detail::BlobFile> file) : file_(std::move(file)) {}

  explicit operator bool() const { return file_ != nullptr; }
  std::uint64_t size() const { return file_ ? file_->size_bytes : 0; }
  // The content. Blocks on input and output at most; throws BlobError. Valid while any copy of this
  // blob or of the Bytes lives.
  Bytes bytes() const { return file_ ? detail::map_shared(file_) : Bytes(); }
  // The content as values of T; throws BlobError when its size is no multiple of T's.
  template <typename T>
  std::span<const T> as() const {
    static_assert(std::is_trivially_copyable_v<T>, "only plain values can be viewed in place");
    const Bytes content = bytes();
    if (content.size() % sizeof(T) != 0) {
      throw BlobError("a blob of " + std::to_string(content.size()) +
                      " bytes does not consist of values of " + std::to_string(sizeof(T)));
    }
    return {reinterpret_cast<const T*>(content.data()), content.size() / sizeof(T)};
  }
  // A copy-on-write view of size() bytes: writing changes nobody else's. Throws BlobError.
  std::shared_ptr<std::byte> copy_on_write() const {
    return file_ ? detail::map_private(*file_) : nullptr;
  }
  const std::shared_ptr<const detail::BlobFile>& file() const { return file_; }

 private:
  std::shared_ptr<const detail::BlobFile> file_;
};

}  // namespace muster
