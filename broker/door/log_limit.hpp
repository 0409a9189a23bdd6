// How often the log says again what a peer can make happen at will.
#pragma once

#include <bit>
#include <cstdint>

namespace muster {

// Whether the event of this number is to be said: the first ones are, and then every doubling.
inline bool is_worth_a_line(std::uint64_t count) {
  return count <= 8 || std::has_single_bit(count);
}

}  // namespace muster
