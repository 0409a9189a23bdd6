// Fuzz input read as a tape of small decisions; past its end everything is zero.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

namespace muster::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size_bytes) : rest_(data, size_bytes) {}

  bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const std::uint8_t first = rest_.front();
    rest_ = rest_.subspan(1);
    return first;
  }
  // 0 … bound-1
  std::uint32_t below(std::uint32_t bound) { return byte() % bound; }
  bool flag() { return (byte() & 1) != 0; }
  // Mostly small; now and then a value at the edge of some type.
  std::uint64_t number() {
    constexpr std::array<std::uint64_t, 8> kEdges = {
        std::uint64_t{1} << 62,
        (std::uint64_t{1} << 62) - 1,
        std::numeric_limits<std::uint32_t>::max(),
        std::numeric_limits<std::uint32_t>::max() - std::uint64_t{1},
        std::numeric_limits<std::int64_t>::max(),
        std::numeric_limits<std::uint64_t>::max(),
        std::uint64_t{1} << 63,
        1'000'000'000};
    const std::uint8_t choice = byte();
    return choice < 248 ? choice % 32 : kEdges[choice - 248U];
  }
  std::string_view take(std::size_t size_bytes) {
    const auto taken = rest_.first(std::min(size_bytes, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

 private:
  std::span<const std::uint8_t> rest_;
};

}  // namespace muster::fuzz
