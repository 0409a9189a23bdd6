#include "worker/system/load.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

namespace muster {
namespace {

Duration from_ticks(std::uint64_t ticks) {
  const auto per_second = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
  return Duration(static_cast<std::int64_t>(ticks * (1'000'000'000 / per_second)));
}

// Of all cores, since the machine started.
Duration busy_time() {
  std::ifstream file("/proc/stat");
  std::string word;
  std::uint64_t user = 0;
  std::uint64_t nice = 0;
  std::uint64_t system = 0;
  std::uint64_t idle = 0;
  std::uint64_t waiting = 0;
  std::uint64_t interrupts = 0;
  std::uint64_t soft_interrupts = 0;
  file >> word >> user >> nice >> system >> idle >> waiting >> interrupts >> soft_interrupts;
  return from_ticks(user + nice + system + interrupts + soft_interrupts);
}

// What a process and the children that it waited for spent.
Duration time_of(const std::string& process) {
  std::ifstream file("/proc/" + process + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return {};
  const std::string fields = line.substr(name_end + 1);
  std::size_t begin = 0;
  std::uint64_t ticks = 0;
  for (int field = 3; field <= 17; ++field) {  // utime, stime, cutime, cstime: 14 to 17
    begin = fields.find_first_not_of(' ', begin);
    if (begin == std::string::npos) return {};
    const std::size_t end = std::min(fields.find(' ', begin), fields.size());
    if (field >= 14) ticks += std::strtoull(fields.substr(begin, end - begin).c_str(), nullptr, 10);
    begin = end;
  }
  return from_ticks(ticks);
}

// Of this process and all below it.
Duration own_time() {
  std::vector<std::string> tree = {std::to_string(::getpid())};
  Duration total{};
  for (std::size_t i = 0; i < tree.size(); ++i) {
    total += time_of(tree[i]);
    std::error_code ignored;
    const std::string folder = "/proc/" + tree[i] + "/task";
    for (const auto& thread : std::filesystem::directory_iterator(folder, ignored)) {
      std::ifstream file(thread.path() / "children");
      for (std::string child; file >> child;) tree.push_back(child);
    }
  }
  return total;
}

}  // namespace

void LoadGuard::sample(Duration others, Time now) {
  samples_.push_back({now, others});
  while (samples_.size() > 2 && now - samples_[1].time >= kWindow) samples_.pop_front();
  const Duration span = now - samples_.front().time;
  if (span < kWindow) return;
  const double cores = static_cast<double>((others - samples_.front().others).count()) /
                       static_cast<double>(span.count());
  if (cores >= limit_cores_) {
    calm_since_ = kNever;
    if (reason_.empty()) {
      reason_ = fmt::format("others keep {:.1f} cores busy (limit {:g})", cores, limit_cores_);
    }
    return;
  }
  if (reason_.empty()) return;
  if (calm_since_ == kNever) calm_since_ = now;
  if (now - calm_since_ >= kCalm) reason_.clear();
}

bool LoadMeter::look(Time now) {
  if (now < next_look_) return false;
  next_look_ = now + kInterval;
  const Duration busy = busy_time();
  const Duration own = own_time();
  // A process of ours that somebody else reaps takes its time with it: such a step counts as none.
  if (started_) {
    others_ += std::max(Duration::zero(),
                        (busy - last_busy_) - std::max(Duration::zero(), own - last_own_));
  }
  started_ = true;
  last_busy_ = busy;
  last_own_ = own;
  guard_.sample(others_, now);
  return true;
}

}  // namespace muster
