#include "producer/cli/status_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "common/printable.hpp"

namespace muster {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLongestCell = 40;
constexpr std::uint64_t kSilenceWorthSaying = 5'000;  // ms; two heartbeats and a bit

struct Column {
  std::string title;
  bool right = false;  // numbers
};
using Row = std::vector<std::string>;

// Characters, not bytes: names may be UTF-8.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// Control characters would let a worker's name move the cursor of the person who asks for the
// status.
std::string clean(const std::string& said) {
  std::string text = printable_line(said);
  if (text.size() <= kLongestCell) return text;
  std::size_t end = kLongestCell - 3;
  while (end > 0 && (text[end] & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

std::string pad(const std::string& text, std::size_t columns, bool right) {
  const std::string space(columns > width(text) ? columns - width(text) : 0, ' ');
  return right ? space + text : text + space;
}

std::string render(const std::vector<Column>& columns, const std::vector<Row>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& column : columns) widths.push_back(width(column.title));
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string text;
  const auto add_line = [&](const auto& cell) {
    std::string line = " ";
    for (std::size_t i = 0; i < columns.size(); ++i) {
      line += " " + pad(cell(i), widths[i], columns[i].right) + " ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  add_line([&](std::size_t i) { return columns[i].title; });
  for (const auto& row : rows) add_line([&](std::size_t i) { return row[i]; });
  return text;
}

std::uint64_t number(const Json& object, const char* key) {
  return object.value(key, std::uint64_t{0});
}

std::string count(const Json& object, const char* key) {
  return std::to_string(number(object, key));
}

// 0: not measured yet.
std::string duration_or_dash(std::uint64_t microseconds) {
  return microseconds == 0 ? "-" : duration_text(microseconds);
}

std::string remarks_about_worker(const Json& worker) {
  std::vector<std::string> remarks;
  if (worker.value("draining", false)) remarks.emplace_back("draining");
  const std::string paused = clean(worker.value("paused", ""));
  if (!paused.empty()) remarks.push_back("PAUSED: " + paused);
  if (number(worker, "stuck_slots") > 0) {
    remarks.push_back(fmt::format("slots stuck: {}", number(worker, "stuck_slots")));
  }
  const auto silent = number(worker, "silent_ms");
  if (silent > kSilenceWorthSaying) remarks.push_back("silent for " + duration_text(silent * 1000));
  return fmt::format("{}", fmt::join(remarks, ", "));
}

// "process, py3.11": no column of its own, most pools have one Python or none.
std::string executor_of(const Json& worker) {
  const std::string executor = clean(worker.value("executor", "?"));
  const std::string python = clean(worker.value("python", ""));
  return python.empty() ? executor : executor + ", py" + python;
}

std::string worker_table(const Json& workers) {
  if (workers.empty()) {
    return "  none is connected; start one: muster-worker --connect ENDPOINT\n";
  }
  std::vector<Row> rows;
  for (const auto& worker : workers) {
    rows.push_back({clean(worker.value("node", "?")), count(worker, "process_id"),
                    executor_of(worker), count(worker, "slots"), count(worker, "leases"),
                    count(worker, "stuck_slots"), count(worker, "tasks_done"),
                    duration_or_dash(number(worker, "round_trip_us")),
                    remarks_about_worker(worker)});
  }
  return render({{"NODE"},
                 {"PID", true},
                 {"EXECUTOR"},
                 {"SLOTS", true},
                 {"LEASES", true},
                 {"STUCK", true},
                 {"DONE", true},
                 {"ROUND TRIP", true},
                 {"REMARKS"}},
                rows);
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 10 ? 1 : 0, kUnits[unit]);
}

// On one line of its own, at full length: it says what to do.
std::string line_about(const Json& node) {
  std::string text = node.value("detail", "");
  if (text.empty()) return "";
  text = printable_line(text);
  const std::string name = clean(node.value("name", "?"));
  if (node.value("state", "") == "up") return fmt::format("  {}: {}\n", name, text);
  return fmt::format("  {}: {}: {}\n", name, clean(node.value("step", "")), text);
}

// With the title; nothing when there are no nodes.
std::string node_table(const Json& nodes) {
  if (nodes.empty()) return "";
  std::vector<Row> rows;
  std::string lines;
  for (const auto& node : nodes) {
    const std::string state = node.value("state", "?");
    rows.push_back({clean(node.value("name", "?")), clean(node.value("address", "?")), clean(state),
                    duration_text(number(node, "state_ms") * 1000),
                    bytes_text(number(node, "bytes_in")), bytes_text(number(node, "bytes_out")),
                    duration_or_dash(number(node, "round_trip_us")), count(node, "reconnects"),
                    state == "up" ? "" : clean(node.value("step", ""))});
    lines += line_about(node);
  }
  return "Nodes\n" +
         render({{"NAME"},
                 {"ADDRESS"},
                 {"STATE"},
                 {"SINCE", true},
                 {"IN", true},
                 {"OUT", true},
                 {"ROUND TRIP", true},
                 {"RECONNECTS", true},
                 {"STEP"}},
                rows) +
         lines + "\n";
}

std::string job_table(const Json& jobs) {
  if (jobs.empty()) return "  none\n";
  std::vector<Row> rows;
  for (const auto& job : jobs) {
    const std::string function = job.value("function", "");
    rows.push_back({clean(job.value("label", "?")), count(job, "job"),
                    function.empty() ? "-" : clean(function),
                    std::to_string(job.value("priority", 0)), count(job, "queued"),
                    count(job, "leased"), count(job, "done"), count(job, "failed"),
                    duration_or_dash(number(job, "mean_us"))});
  }
  std::string text = render({{"SESSION"},
                             {"JOB", true},
                             {"FUNCTION"},
                             {"PRIORITY", true},
                             {"QUEUED", true},
                             {"LEASED", true},
                             {"DONE", true},
                             {"FAILED", true},
                             {"MEAN", true}},
                            rows);
  for (const auto& job : jobs) {
    const std::string waiting = job.value("waiting", "");
    if (waiting.empty()) continue;
    text += fmt::format("  {} job {} waits: {}\n", clean(job.value("label", "?")),
                        number(job, "job"), printable_line(waiting));
  }
  return text;
}

}  // namespace

std::string duration_text(std::uint64_t microseconds) {
  const auto three_digits = [](double value, const char* unit) {
    if (value < 10) return fmt::format("{:.2f} {}", value, unit);
    if (value < 100) return fmt::format("{:.1f} {}", value, unit);
    return fmt::format("{:.0f} {}", value, unit);
  };
  const auto value = static_cast<double>(microseconds);
  if (microseconds < 1'000) return fmt::format("{} us", microseconds);
  if (microseconds < 999'500) return three_digits(value / 1e3, "ms");
  if (microseconds < 120'000'000) return three_digits(value / 1e6, "s");
  const auto minutes = microseconds / 60'000'000;
  if (minutes < 120) return fmt::format("{} min", minutes);
  if (minutes < 48 * 60) return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
  return fmt::format("{} d {} h", minutes / 1440, minutes / 60 % 24);
}

std::string status_table(const std::string& json) {
  try {
    const Json status = Json::parse(json);
    const Json workers = status.value("workers", Json::array());
    const Json jobs = status.value("jobs", Json::array());
    const Json nodes = status.value("nodes", Json::array());
    return fmt::format(
        "Broker: Muster {}, up {}, {} slots on {} worker{}; sessions: "
        "{}\n\n{}Workers\n{}\nJobs\n{}",
        clean(status.value("software_version", "?")),
        duration_text(number(status, "uptime_ms") * 1000), number(status, "total_slots"),
        workers.size(), workers.size() == 1 ? "" : "s", number(status, "sessions"),
        node_table(nodes), worker_table(workers), job_table(jobs));
  } catch (const Json::exception& error) {
    throw std::runtime_error(std::string("the broker's status could not be read: ") + error.what());
  }
}

}  // namespace muster
