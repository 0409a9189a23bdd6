#include "producer/cli/nodes/node_display.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace muster {
namespace {

bool is_terminal() {
  const char* kind = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && kind != nullptr && std::strcmp(kind, "dumb") != 0;
}

std::size_t name_width(const std::vector<NodeRow>& rows) {
  std::size_t width = 0;
  for (const NodeRow& row : rows) width = std::max(width, row.name.size());
  return std::min<std::size_t>(width, 40);
}

void print(const std::string& text) {
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

NodeDisplay::NodeDisplay() : terminal_(is_terminal()) {}

void NodeDisplay::show(const std::vector<NodeRow>& rows) {
  winsize size{};
  const bool fits = terminal_ && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 &&
                    size.ws_col >= 20 && rows.size() < size.ws_row;
  if (fits) {
    draw(rows, size.ws_col);
  } else {
    tell_changes(rows);
  }
}

void NodeDisplay::draw(const std::vector<NodeRow>& rows, std::size_t columns) {
  const std::size_t names = name_width(rows);
  std::string text;
  for (const NodeRow& row : rows) {
    const std::size_t room = columns > names + 3 ? columns - names - 3 : 1;
    text += fmt::format("{:<{}}  {}\033[K\n", row.name, names, describe(row, room));
  }
  if (text == drawn_) return;
  if (drawn_lines_ > 0) print(fmt::format("\033[{}A", drawn_lines_));
  print(text);
  drawn_ = std::move(text);
  drawn_lines_ = rows.size();
}

void NodeDisplay::tell_changes(const std::vector<NodeRow>& rows) {
  const std::size_t names = name_width(rows);
  std::string text;
  for (const NodeRow& row : rows) {
    // A step's progress is for terminals.
    const std::string now = is_up(row) ? "up" : row.state + '\n' + row.step;
    std::set<std::string>& before = told_[row.name];
    if (is_up(row) && !before.contains(now)) before.clear();
    if (!before.insert(now).second) continue;
    text += fmt::format("{:<{}}  {}\n", row.name, names, describe(row));
  }
  if (!text.empty()) print(text);
}

}  // namespace muster
