#include "broker/stores/value_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "common/protocol/codec_wire.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

constexpr std::string_view kMagic = "muster\x01m";
// The magic, three lengths, the content's length and digest, and the digest of all of the end.
constexpr std::size_t kFootBytes = 8 + 3 * 4 + 8 + 16 + 8;
// A store's name, and the digest of a seal in hex digits.
constexpr std::size_t kMostStoreBytes = limits::kMaxNameBytes + 1 + 2 * kSealDigestBytes;

int read_end(int file, std::uint64_t file_bytes, ValueFileEnd& end) {
  std::array<char, kFootBytes> foot{};
  if (file_bytes < kFootBytes) return kNotAsWritten;
  if (const int error = read_all(file, foot.data(), kFootBytes, file_bytes - kFootBytes)) {
    return error;
  }
  if (std::string_view(foot.data(), kMagic.size()) != kMagic) return kNotAsWritten;
  const std::size_t text_bytes = wire::load_be32(foot.data() + 8);
  const std::size_t store_bytes = wire::load_be32(foot.data() + 12);
  const std::size_t key_bytes = wire::load_be32(foot.data() + 16);
  if (text_bytes > limits::kMaxTextBytes || store_bytes > kMostStoreBytes ||
      key_bytes > limits::kMaxStoreKeyBytes) {
    return kNotAsWritten;
  }
  end.content_bytes = wire::load_be64(foot.data() + 20);
  end.digest_high = wire::load_be64(foot.data() + 28);
  end.digest_low = wire::load_be64(foot.data() + 36);
  const std::size_t said_bytes = text_bytes + store_bytes + key_bytes;
  if (file_bytes - kFootBytes < said_bytes ||
      end.content_bytes != file_bytes - kFootBytes - said_bytes) {
    return kNotAsWritten;
  }
  std::string data(said_bytes + kFootBytes - 8, '\0');
  if (const int error = read_all(file, data.data(), data.size(), end.content_bytes)) return error;
  if (XXH3_64bits(data.data(), data.size()) != wire::load_be64(foot.data() + kFootBytes - 8)) {
    return kNotAsWritten;
  }
  end.text = data.substr(0, text_bytes);
  end.name.store = data.substr(text_bytes, store_bytes);
  end.name.key = data.substr(text_bytes + store_bytes, key_bytes);
  return 0;
}

}  // namespace

bool is_damage(int error) {
  return error == kNotAsWritten || error == ENOENT || error == ELOOP || error == ENOTDIR;
}

std::string describe_value_error(int error) {
  return error == kNotAsWritten ? "it is not as it was written" : std::strerror(error);
}

int open_value(const std::string& path, Descriptor& file, struct stat& status, ValueFileEnd& end) {
  file.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file || ::fstat(file.get(), &status) != 0) return errno;
  if (!S_ISREG(status.st_mode)) return kNotAsWritten;
  return read_end(file.get(), static_cast<std::uint64_t>(status.st_size), end);
}

Digest begin_digest() {
  Digest state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  return state;
}

int add_to_digest(const Digest& digest, int file, std::uint64_t size_bytes) {
  std::vector<char> buffer(std::size_t{256} << 10);
  for (std::uint64_t offset = 0; offset < size_bytes;) {
    const auto piece =
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), size_bytes - offset));
    if (const int error = read_all(file, buffer.data(), piece, offset)) return error;
    XXH3_128bits_update(digest.get(), buffer.data(), piece);
    offset += piece;
  }
  return 0;
}

int check_digest(int file, const ValueFileEnd& end) {
  const Digest state = begin_digest();
  if (const int error = add_to_digest(state, file, end.content_bytes)) return error;
  const XXH128_hash_t digest = XXH3_128bits_digest(state.get());
  const bool is_same = digest.high64 == end.digest_high && digest.low64 == end.digest_low;
  return is_same ? 0 : kNotAsWritten;
}

std::string encode_end(const ValueFileEnd& end) {
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

int read_all(int file, void* data, std::size_t size_bytes, std::uint64_t offset) {
  char* next = static_cast<char*>(data);
  while (size_bytes > 0) {
    const ssize_t got = ::pread(file, next, size_bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : kNotAsWritten;
    next += got;
    offset += static_cast<std::uint64_t>(got);
    size_bytes -= static_cast<std::size_t>(got);
  }
  return 0;
}

}  // namespace muster
