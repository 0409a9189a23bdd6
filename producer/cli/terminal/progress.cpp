#include "producer/cli/terminal/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace muster {
namespace {

constexpr std::chrono::milliseconds kRedraw{100};  // faster than that nobody reads
constexpr std::size_t kMostBarColumns = 40;
constexpr std::size_t kDefaultColumns = 80;

std::string clock_text(std::chrono::milliseconds time) {
  const auto seconds = time.count() / 1000;
  if (seconds < 3600) return fmt::format("{}:{:02}", seconds / 60, seconds % 60);
  return fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::size_t terminal_columns() {
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kDefaultColumns;
}

void write_terminal(const std::string& text) {
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

std::string progress_line(const ProgressState& state, std::size_t columns) {
  const std::string failures = state.failed > 0 ? fmt::format(", {} failed", state.failed) : "";
  if (!state.total || *state.total == 0) {
    return fmt::format("{} done{}, {} submitted, {}", state.done, failures, state.running,
                       clock_text(state.elapsed))
        .substr(0, columns);
  }
  const auto total = *state.total;
  const auto done = std::min(state.done, total);
  std::string rest = fmt::format(" {:3}% {}/{}{}, {}", done * 100 / total, done, total, failures,
                                 clock_text(state.elapsed));
  if (done > 0 && done < total) {
    const auto left = state.elapsed * static_cast<double>(total - done) / static_cast<double>(done);
    rest += fmt::format(", {} left",
                        clock_text(std::chrono::duration_cast<std::chrono::milliseconds>(left)));
  }
  const std::size_t room = columns > rest.size() + 2 ? columns - rest.size() - 2 : 0;
  const std::size_t bar = std::min(room, kMostBarColumns);
  const auto filled = static_cast<std::size_t>(bar * done / total);
  return fmt::format("[{}{}]{}", std::string(filled, '#'), std::string(bar - filled, '.'), rest)
      .substr(0, columns);
}

void Progress::update(const ProgressState& state) {
  if (!enabled_ || state.elapsed - last_ < kRedraw) return;
  last_ = state.elapsed;
  drawn_ = true;
  line_drawn_(true);
  write_terminal("\r" + progress_line(state, terminal_columns() - 1) + "\033[K");
}

void Progress::clear() {
  if (!drawn_) return;
  write_terminal("\r\033[K");
  drawn_ = false;
  line_drawn_(false);
}

}  // namespace muster
