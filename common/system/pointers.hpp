// Words in the form in which exec(3) and posix_spawn(3) take them. Pure; any thread.
#pragma once

#include <string>
#include <vector>

namespace muster {

// Ends with a null pointer; valid while `words` lives and is not changed. Nobody writes through it.
inline std::vector<char*> pointers_to(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace muster
