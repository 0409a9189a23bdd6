#include "broker/stores/memo_file.hpp"

#include <unistd.h>
#include <xxhash.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "common/protocol/codec_wire.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

constexpr std::string_view kMagic = "muster\x01m";
// The magic, three lengths, the content's length and digest, and the digest of all of the end.
constexpr std::size_t kFootBytes = 8 + 3 * 4 + 8 + 16 + 8;
// A store's name, and the digest of a seal in hex digits.
constexpr std::size_t kMostStoreBytes = limits::kMaxNameBytes + 1 + 2 * kSealDigestBytes;

}  // namespace

std::string encode_end(const MemoFileEnd& end) {
  std::string data = end.text + end.name.store + end.name.key;
  std::array<char, kFootBytes> foot{};
  kMagic.copy(foot.data(), kMagic.size());
  wire::store_be32(foot.data() + 8, static_cast<std::uint32_t>(end.text.size()));
  wire::store_be32(foot.data() + 12, static_cast<std::uint32_t>(end.name.store.size()));
  wire::store_be32(foot.data() + 16, static_cast<std::uint32_t>(end.name.key.size()));
  wire::store_be64(foot.data() + 20, end.content_bytes);
  wire::store_be64(foot.data() + 28, end.digest_high);
  wire::store_be64(foot.data() + 36, end.digest_low);
  data.append(foot.data(), kFootBytes - 8);
  std::array<char, 8> digest{};
  wire::store_be64(digest.data(), XXH3_64bits(data.data(), data.size()));
  data.append(digest.data(), digest.size());
  return data;
}

std::optional<MemoFileEnd> read_end(int file, std::uint64_t file_bytes) {
  std::array<char, kFootBytes> foot{};
  if (file_bytes < kFootBytes ||
      !read_all(file, foot.data(), kFootBytes, file_bytes - kFootBytes) ||
      std::string_view(foot.data(), kMagic.size()) != kMagic) {
    return std::nullopt;
  }
  const std::size_t text_bytes = wire::load_be32(foot.data() + 8);
  const std::size_t store_bytes = wire::load_be32(foot.data() + 12);
  const std::size_t key_bytes = wire::load_be32(foot.data() + 16);
  if (text_bytes > limits::kMaxTextBytes || store_bytes > kMostStoreBytes ||
      key_bytes > limits::kMaxStoreKeyBytes) {
    return std::nullopt;
  }
  MemoFileEnd end;
  end.content_bytes = wire::load_be64(foot.data() + 20);
  end.digest_high = wire::load_be64(foot.data() + 28);
  end.digest_low = wire::load_be64(foot.data() + 36);
  const std::size_t said_bytes = text_bytes + store_bytes + key_bytes;
  if (file_bytes - kFootBytes < said_bytes ||
      end.content_bytes != file_bytes - kFootBytes - said_bytes) {
    return std::nullopt;
  }
  std::string data(said_bytes + kFootBytes - 8, '\0');
  if (!read_all(file, data.data(), data.size(), end.content_bytes)) return std::nullopt;
  if (XXH3_64bits(data.data(), data.size()) != wire::load_be64(foot.data() + kFootBytes - 8)) {
    return std::nullopt;
  }
  end.text = data.substr(0, text_bytes);
  end.name.store = data.substr(text_bytes, store_bytes);
  end.name.key = data.substr(text_bytes + store_bytes, key_bytes);
  return end;
}

int write_all(int file, const void* data, std::size_t size_bytes) {
  const char* next = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const ssize_t written = ::write(file, next, size_bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : ENOSPC;
    next += written;
    size_bytes -= static_cast<std::size_t>(written);
  }
  return 0;
}

bool read_all(int file, void* data, std::size_t size_bytes, std::uint64_t offset) {
  char* next = static_cast<char*>(data);
  while (size_bytes > 0) {
    const ssize_t got = ::pread(file, next, size_bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    next += got;
    offset += static_cast<std::uint64_t>(got);
    size_bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace muster
