#include "worker/system/machine.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "common/protocol/limits.hpp"
#include "common/system/descriptor.hpp"

namespace muster {
namespace {

constexpr const char* kOomScore = "500";  // of 1000; the daemon's own stays as it was given

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The folders of our cgroup for `controller`, from it to the root; version 2's when it is empty.
std::vector<std::string> cgroup_folders(const MachineFiles& files, const std::string& controller) {
  std::ifstream file(files.proc + "/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:cpu,cpuacct:/user" or "0::/user"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    const bool named = ("," + names + ",").find("," + controller + ",") != std::string::npos;
    if (controller.empty() ? !names.empty() : !named) continue;
    const std::string mount = files.cgroup + (names.empty() ? "" : "/" + names);
    std::string path = line.substr(second + 1);
    std::vector<std::string> folders;
    for (; path.size() > 1; path.resize(path.rfind('/'))) folders.push_back(mount + path);
    folders.push_back(mount);
    return folders;
  }
  return {};
}

template <typename Number>
bool parse(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// Cores that the quotas leave, rounded up.
std::uint64_t quota_cores(const MachineFiles& files) {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  const auto apply = [&](const std::string& quota, const std::string& period) {
    std::uint64_t used = 0;
    std::uint64_t of = 0;
    if (!parse(quota, used) || !parse(period, of) || of == 0) return;  // "max", "-1"
    least = std::min(least, std::max<std::uint64_t>(1, (used + of - 1) / of));
  };
  for (const std::string& folder : cgroup_folders(files, "")) {
    const std::string line = first_line(folder + "/cpu.max");
    const std::size_t space = line.find(' ');
    if (space != std::string::npos) apply(line.substr(0, space), line.substr(space + 1));
  }
  for (const std::string& folder : cgroup_folders(files, "cpu")) {
    apply(first_line(folder + "/cpu.cfs_quota_us"), first_line(folder + "/cpu.cfs_period_us"));
  }
  return least;
}

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> words;
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    if (comma > 0) words.emplace_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return words;
}

std::vector<std::string> detect_gpus(const MachineFiles& files) {
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr) {
    std::vector<std::string> names = split(visible);
    // As CUDA reads it: what follows an impossible name does not count.
    names.erase(std::find_if(names.begin(), names.end(),
                             [](const std::string& name) {
                               return name.starts_with("-") || name == "NoDevFiles";
                             }),
                names.end());
    return names;
  }
  std::vector<std::uint32_t> numbers;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(files.dev, ignored)) {
    const std::string name = entry.path().filename().string();
    std::uint32_t number = 0;
    if (name.starts_with("nvidia") && parse(std::string_view(name).substr(6), number)) {
      numbers.push_back(number);
    }
  }
  std::sort(numbers.begin(), numbers.end());
  std::vector<std::string> names;
  for (const std::uint32_t number : numbers) names.push_back(std::to_string(number));
  return names;
}

}  // namespace

std::uint32_t usable_cores(const MachineFiles& files) {
  std::uint64_t cores = std::max(1U, std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
    cores = static_cast<std::uint64_t>(CPU_COUNT(&set));
  }
  return static_cast<std::uint32_t>(std::min(cores, quota_cores(files)));
}

std::uint64_t usable_memory(const MachineFiles& files) {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  std::ifstream info(files.proc + "/meminfo");
  std::string word;
  std::uint64_t kilobytes = 0;
  while (info >> word) {
    if (word != "MemTotal:" || !(info >> kilobytes)) continue;
    least = kilobytes << 10;
    break;
  }
  const auto apply = [&](const std::string& text) {
    std::uint64_t bytes = 0;
    if (parse(text, bytes)) least = std::min(least, bytes);  // not "max"
  };
  for (const std::string& folder : cgroup_folders(files, "")) {
    apply(first_line(folder + "/memory.max"));
  }
  for (const std::string& folder : cgroup_folders(files, "memory")) {
    apply(first_line(folder + "/memory.limit_in_bytes"));
  }
  return least == std::numeric_limits<std::uint64_t>::max() ? 0 : least;
}

void limit_cores(std::uint32_t most) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return;
  // From the top: what else runs on the machine starts with the first cores as often as not.
  for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&set) > static_cast<int>(most); ++core) {
    CPU_CLR(core, &set);
  }
  ::sched_setaffinity(0, sizeof set, &set);
}

std::vector<std::string> find_gpus(const std::string& asked, const MachineFiles& files) {
  constexpr std::uint32_t kMostGpus = 1024;
  if (asked == "none") return {};
  if (asked.empty()) return detect_gpus(files);
  std::uint32_t count = 0;
  if (parse(std::string_view(asked), count)) {
    if (count > kMostGpus) {
      throw std::runtime_error(
          fmt::format("--gpus {}: no node has more than {}", count, kMostGpus));
    }
    std::vector<std::string> names;
    for (std::uint32_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
    return names;
  }
  std::vector<std::string> names = split(asked);
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  if (names.empty() || std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    throw std::runtime_error(
        "--gpus '" + asked +
        "' must be a number of GPUs, a list like 0,2 without repeats, or none");
  }
  return names;
}

std::string join_gpus(const std::vector<std::string>& names,
                      const std::vector<std::uint32_t>& chosen) {
  std::string text;
  for (const std::uint32_t index : chosen) {
    if (index < names.size()) text += (text.empty() ? "" : ",") + names[index];
  }
  return text;
}

void raise_oom_score(int process) {
  const Descriptor file(
      ::open(fmt::format("/proc/{}/oom_score_adj", process).c_str(), O_WRONLY | O_CLOEXEC));
  if (!file) return;
  [[maybe_unused]] const ssize_t written = ::write(file.get(), kOomScore, 3);
}

}  // namespace muster
