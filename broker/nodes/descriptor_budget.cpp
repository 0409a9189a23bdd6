#include "broker/nodes/descriptor_budget.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

namespace muster {
namespace {

// The ssh connection, its waker and a copy for it, the two ends of the tunnel's connection, and the
// same two again for bulk. With ssh itself its pipes and process come on top.
constexpr std::uint64_t kOfLibssh = 7;
constexpr std::uint64_t kOfOpenssh = 10;

// Left for programs and workers of this machine, files and logs, whatever else is open now.
constexpr std::uint64_t kForOthers = 64;
constexpr std::uint64_t kLeastShare = 4;  // … or one part in so many of a small limit

std::uint64_t sum(std::span<const Host> hosts) {
  return std::accumulate(
      hosts.begin(), hosts.end(), std::uint64_t{0},
      [](std::uint64_t before, const Host& host) { return before + descriptors_of(host); });
}

}  // namespace

DescriptorUse descriptors_in_use() {
  DescriptorUse use;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) use.limit = limit.rlim_cur;
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
       !error && entry != end; entry.increment(error)) {
    ++use.opened;
  }
  return use;
}

std::uint64_t descriptors_of(const Host& host) {
  return host.via == Via::openssh ? kOfOpenssh : kOfLibssh;
}

std::string descriptor_complaint(std::span<const Host> present, std::span<const Host> more,
                                 const DescriptorUse& use) {
  const std::uint64_t of_present = sum(present);
  const std::uint64_t others = use.opened > of_present ? use.opened - of_present : 0;
  const std::uint64_t kept = others + std::min(kForOthers, use.limit / kLeastShare) + of_present;
  const std::uint64_t left = use.limit > kept ? use.limit - kept : 0;
  const std::uint64_t needed = sum(more);
  if (needed <= left) return "";
  std::uint64_t fit = 0;
  for (std::uint64_t taken = 0; fit < more.size(); ++fit) {
    taken += descriptors_of(more[fit]);
    if (taken > left) break;
  }
  return fmt::format(
      "{} of these {} nodes fit, beside {} that are up: a node takes up to {} descriptors ({} with "
      "via = \"openssh\"), and this broker may open {}, of which {} are left for nodes; start it "
      "with a hard limit of at least {} (`ulimit -Hn`, LimitNOFILE= of its service), or bring up "
      "fewer",
      fit, more.size(), present.size(), kOfLibssh, kOfOpenssh, use.limit, left, kept + needed);
}

}  // namespace muster
