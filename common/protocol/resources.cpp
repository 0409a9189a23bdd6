#include "common/protocol/resources.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace muster {
namespace {

__extension__ using Wide = unsigned __int128;

// ceil(wanted × slots / total), at most one more than there are slots.
std::uint32_t share(std::uint64_t wanted, std::uint32_t slots, std::uint64_t total) {
  const Wide parts = (Wide{wanted} * slots + total - 1) / total;
  return static_cast<std::uint32_t>(std::min<Wide>(parts, Wide{slots} + 1));
}

}  // namespace

Shape shape_of(const message::HelloWorker& hello) {
  return {hello.slots, hello.cores, hello.memory_bytes, hello.gpus};
}

std::uint32_t width_of(const Resources& wanted, const Shape& shape) {
  std::uint32_t width = 1;
  if (wanted.milli_cpus != 0) {
    const std::uint64_t cores = shape.cores == 0 ? shape.slots : shape.cores;
    width = std::max(width, share(wanted.milli_cpus, shape.slots, cores * 1000));
  }
  if (wanted.memory_bytes != 0 && shape.memory_bytes != 0) {
    width = std::max(width, share(wanted.memory_bytes, shape.slots, shape.memory_bytes));
  }
  return width;
}

bool fits(const Resources& wanted, const Shape& shape) {
  return wanted.gpus <= shape.gpus && width_of(wanted, shape) <= shape.slots;
}

bool is_demanding(const Resources& wanted) { return wanted != Resources{}; }

bool has_labels(const std::vector<std::string>& offered, const std::vector<std::string>& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const std::string& label) {
    return std::binary_search(offered.begin(), offered.end(), label);
  });
}

std::string describe_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "KB", "MB", "GB", "TB"};
  double number = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (number >= 1024 && unit + 1 < kUnits.size()) {
    number /= 1024;
    ++unit;
  }
  const std::string text = fmt::format("{:.1f}", number);
  const bool whole = text.ends_with(".0");
  return fmt::format("{} {}", whole ? text.substr(0, text.size() - 2) : text, kUnits[unit]);
}

std::string describe_cpus(std::uint64_t milli_cpus) {
  return fmt::format("{:g} {}", static_cast<double>(milli_cpus) / 1000,
                     milli_cpus == 1000 ? "core" : "cores");
}

}  // namespace muster
