// Comparing secrets. Pure; any thread.
#pragma once

#include <cstddef>
#include <string_view>

namespace muster {

// Takes as long however much of the two is alike. An empty secret is nobody's.
inline bool same_secret(std::string_view said, std::string_view known) {
  unsigned difference = said.size() == known.size() && !known.empty() ? 0 : 1;
  for (std::size_t i = 0; i < said.size(); ++i) {
    const char expected = known.empty() ? '\0' : known[i % known.size()];
    difference |= static_cast<unsigned char>(said[i]) ^ static_cast<unsigned char>(expected);
  }
  return difference == 0;
}

}  // namespace muster
