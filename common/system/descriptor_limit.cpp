#include "common/system/descriptor_limit.hpp"

#include <algorithm>
#include <cerrno>

namespace muster {
namespace {

// Of the limit, at most an eighth: what work that has begun may still open.
constexpr rlim_t kReserve = 64;

// Of the whole process, as the limit itself is.
std::optional<rlimit> original;

}  // namespace

std::uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  rlimit raised = limit;
  raised.rlim_cur = raised.rlim_max;
  if (raised.rlim_cur == limit.rlim_cur || ::setrlimit(RLIMIT_NOFILE, &raised) != 0) {
    return limit.rlim_cur;
  }
  if (!original) original = limit;
  return raised.rlim_cur;
}

const std::optional<rlimit>& original_descriptor_limit() { return original; }

void restore_descriptor_limit() {
  if (original) ::setrlimit(RLIMIT_NOFILE, &*original);
}

bool is_near_descriptor_limit(int descriptor) {
  rlimit limit{};
  if (descriptor < 0 || ::getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  const rlim_t reserve = std::min(kReserve, limit.rlim_cur / 8);
  return static_cast<rlim_t>(descriptor) + reserve >= limit.rlim_cur;
}

bool is_exhaustion(int error) {
  return error == EMFILE || error == ENFILE || error == EAGAIN || error == ENOMEM;
}

}  // namespace muster
