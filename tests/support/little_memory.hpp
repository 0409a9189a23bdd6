// For tests of input that declares more memory than it may get. Owner: one test.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstddef>
#include <cstdio>

namespace muster::testing {

// While it lives, an allocation of a gibibyte fails, though nobody writes to it. With a sanitizer,
// which reserves much more for itself, it does nothing.
class LittleMemory {
 public:
  LittleMemory() {
    getrlimit(RLIMIT_AS, &before_);
    long pages = 0;
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr || std::fscanf(file, "%ld", &pages) != 1) ADD_FAILURE();
    if (file != nullptr) std::fclose(file);
    rlimit less = before_;
    less.rlim_cur = static_cast<rlim_t>(pages) * 4096 + (std::size_t{256} << 20);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
    setrlimit(RLIMIT_AS, &less);
#endif
  }
  ~LittleMemory() { setrlimit(RLIMIT_AS, &before_); }
  LittleMemory(const LittleMemory&) = delete;
  LittleMemory& operator=(const LittleMemory&) = delete;

 private:
  rlimit before_{};
};

// While it lives, this process gets no more memory than it has. With a sanitizer it does nothing.
class NoMoreMemory {
 public:
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
  static constexpr bool kWorks = true;
#else
  static constexpr bool kWorks = false;
#endif

  NoMoreMemory() {
    getrlimit(RLIMIT_DATA, &before_);
    rlimit none = before_;
    none.rlim_cur = 0;
    if (kWorks) setrlimit(RLIMIT_DATA, &none);
  }
  ~NoMoreMemory() { setrlimit(RLIMIT_DATA, &before_); }
  NoMoreMemory(const NoMoreMemory&) = delete;
  NoMoreMemory& operator=(const NoMoreMemory&) = delete;

 private:
  rlimit before_{};
};

}  // namespace muster::testing
