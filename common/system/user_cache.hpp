// Where everything of Muster's on a user's disk lies.
#pragma once

#include <cstdlib>
#include <string>

namespace muster {

// $XDG_CACHE_HOME/muster, or $HOME/.cache/muster. Empty: neither variable is a full path.
inline std::string user_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/muster";
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return std::string(home) + "/.cache/muster";
  return "";
}

}  // namespace muster
