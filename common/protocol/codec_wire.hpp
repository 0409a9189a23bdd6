// The few bytes of the wire form that are not msgpack. Private to the codec's sources.
#pragma once

#include <cstddef>
#include <cstdint>

namespace muster::wire {

inline constexpr char kPlainFlag = 0;   // the rest of frame 0 is msgpack
inline constexpr char kPackedFlag = 1;  // four bytes of size (big-endian), then an lz4 block
inline constexpr std::size_t kPackedHeaderBytes = 5;

inline void store_be32(char* out, std::uint32_t number) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<char>(number >> (24 - 8 * i));
}
inline std::uint32_t load_be32(const char* in) {
  std::uint32_t number = 0;
  for (int i = 0; i < 4; ++i) number = number << 8 | static_cast<unsigned char>(in[i]);
  return number;
}
inline void store_be64(char* out, std::uint64_t number) {
  store_be32(out, static_cast<std::uint32_t>(number >> 32));
  store_be32(out + 4, static_cast<std::uint32_t>(number));
}
inline std::uint64_t load_be64(const char* in) {
  return std::uint64_t{load_be32(in)} << 32 | load_be32(in + 4);
}

}  // namespace muster::wire
