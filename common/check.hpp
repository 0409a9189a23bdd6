// CHECK: our own bugs end the process, in release builds too, with the place and what was expected.
#pragma once

namespace muster {

/// Prints one line on stderr and aborts. Out of line, so that pure files need no <cstdio>.
[[noreturn]] void check_failed(const char* file, int line, const char* condition);

}  // namespace muster

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) ::muster::check_failed(__FILE__, __LINE__, #condition); \
  } while (false)
