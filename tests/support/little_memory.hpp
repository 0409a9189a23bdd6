// For tests that are to get little memory. Owner: one test.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstddef>
#include <cstdio>

namespace muster::testing {

// While it lives, the process gets no more than `spare_bytes` of address space beyond what it has:
// by default an allocation of a gibibyte fails, though nobody writes to it. With a sanitizer, which
// reserves much more for itself, it does nothing.
class LittleMemory {
 public:
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
  static constexpr bool kWorks = true;
#else
  static constexpr bool kWorks = false;
#endif

  explicit LittleMemory(std::size_t spare_bytes = std::size_t{256} << 20) {
    getrlimit(RLIMIT_AS, &before_);
    long pages = 0;
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr || std::fscanf(file, "%ld", &pages) != 1) ADD_FAILURE();
    if (file != nullptr) std::fclose(file);
    rlimit less = before_;
    less.rlim_cur = static_cast<rlim_t>(pages) * 4096 + spare_bytes;
    if (kWorks) setrlimit(RLIMIT_AS, &less);
  }
  ~LittleMemory() { setrlimit(RLIMIT_AS, &before_); }
  LittleMemory(const LittleMemory&) = delete;
  LittleMemory& operator=(const LittleMemory&) = delete;

 private:
  rlimit before_{};
};

}  // namespace muster::testing
