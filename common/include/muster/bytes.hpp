// Bytes: an immutable run of bytes that shares its owner.
//
// What it is: a view plus whatever keeps the memory alive (a buffer of ours, a received ZeroMQ
// message, a memory map). Copying a Bytes copies no data. Part of both public faces.
// Threads: a Bytes is a value; distinct copies may be used and destroyed on any threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

namespace muster {

class Bytes {
 public:
  Bytes() = default;

  // Shares `owner`, which must keep `view` valid and unchanged as long as it lives.
  Bytes(std::shared_ptr<const void> owner, std::span<const std::byte> view)
      : owner_(std::move(owner)), view_(view) {}

  // Copies `size_bytes` bytes into memory of its own.
  static Bytes copy(const void* data, std::size_t size_bytes) {
    if (size_bytes == 0) return {};
    auto buffer = std::make_shared_for_overwrite<std::byte[]>(size_bytes);
    std::memcpy(buffer.get(), data, size_bytes);
    const std::span<const std::byte> view(buffer.get(), size_bytes);
    return {std::move(buffer), view};
  }
  static Bytes copy(std::string_view text) { return copy(text.data(), text.size()); }

  // Views memory that outlives every copy (string literals, statics).
  static Bytes borrow(std::string_view text) {
    return {nullptr, std::as_bytes(std::span(text.data(), text.size()))};
  }

  const std::byte* data() const { return view_.data(); }
  std::size_t size() const { return view_.size(); }
  bool empty() const { return view_.empty(); }
  std::span<const std::byte> span() const { return view_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(view_.data()), view_.size()};
  }
  const std::shared_ptr<const void>& owner() const { return owner_; }

  // The same owner, a part of the view. Precondition: offset + size_bytes <= size().
  Bytes slice(std::size_t offset, std::size_t size_bytes) const {
    return {owner_, view_.subspan(offset, size_bytes)};
  }

  friend bool operator==(const Bytes& left, const Bytes& right) {
    return left.text() == right.text();
  }

 private:
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> view_;
};

// Packs many small byte runs into few allocations: each appended run becomes a Bytes that shares
// its chunk. A chunk lives as long as any of its runs. Not thread-safe: one arena per thread.
class BytesArena {
 public:
  static constexpr std::size_t kChunkBytes = 64 * 1024;  // one allocation per ~1,000 small runs

  // Memory for the next `size_bytes` bytes; valid until the next call. Publish it with `take`.
  std::byte* reserve(std::size_t size_bytes) {
    if (size_bytes > capacity_ - used_) {
      capacity_ = size_bytes > kChunkBytes / 4 ? size_bytes : kChunkBytes;
      chunk_ = std::make_shared_for_overwrite<std::byte[]>(capacity_);
      used_ = 0;
    }
    return chunk_.get() + used_;
  }

  // The first `size_bytes` bytes of what `reserve` returned, as an immutable Bytes.
  Bytes take(std::size_t size_bytes) {
    const std::span<const std::byte> view(chunk_.get() + used_, size_bytes);
    used_ += size_bytes;
    return {chunk_, view};
  }

  Bytes append(const void* data, std::size_t size_bytes) {
    if (size_bytes == 0) return {};
    std::memcpy(reserve(size_bytes), data, size_bytes);
    return take(size_bytes);
  }

 private:
  std::shared_ptr<std::byte[]> chunk_;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
};

}  // namespace muster
