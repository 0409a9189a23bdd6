#include "producer/cli/nodes/node_rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "common/printable.hpp"

namespace muster {
namespace {

std::string joined(std::initializer_list<std::string> parts) {
  std::string text;
  for (const std::string& part : parts) {
    if (!part.empty()) text += (text.empty() ? "" : ": ") + part;
  }
  return printable_line(text);  // a node's own words reach this terminal
}

}  // namespace

std::vector<NodeRow> node_rows(const std::string& json) {
  using Json = nlohmann::json;
  try {
    const Json status = Json::parse(json);
    std::map<std::string, std::uint32_t> slots;
    for (const Json& worker : status.at("workers")) {
      slots[worker.at("node")] += worker.at("slots").get<std::uint32_t>();
    }
    std::vector<NodeRow> rows;
    for (const Json& node : status.at("nodes")) {
      NodeRow& row = rows.emplace_back();
      row.name = node.at("name");
      row.address = node.at("address");
      row.state = node.at("state");
      row.step = node.at("step");
      row.detail = node.at("detail");
      row.state_ms = node.at("state_ms");
      const auto found = slots.find(row.name);
      if (found != slots.end()) row.slots = found->second;
    }
    return rows;
  } catch (const Json::exception& error) {
    throw std::runtime_error(std::string("the broker's status could not be read: ") + error.what());
  }
}

bool is_up(const NodeRow& row) { return row.state == "up" && row.slots > 0; }

std::string describe(const NodeRow& row, std::size_t columns) {
  std::string text;
  if (is_up(row)) {
    text = fmt::format("up, {} slot{}", row.slots, row.slots == 1 ? "" : "s");
    if (!row.detail.empty()) text += "; " + printable_line(row.detail);
  } else if (row.state == "up") {
    text = "up, its worker is about to come";
  } else {
    text = joined({row.state, row.step, row.detail});
  }
  if (columns == 0 || text.size() <= columns) return text;
  std::size_t end = columns > 3 ? columns - 3 : 0;
  while (end > 0 && (text[end] & 0xc0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

std::string complaint(const NodeRow& row) {
  const std::string who = row.address.empty() || row.address == row.name
                              ? row.name
                              : fmt::format("{} ({})", row.name, row.address);
  if (row.state == "up") {
    return joined({who,
                   "the tunnel is up, but no worker came through it; `muster doctor` tells "
                   "what is wrong"});
  }
  return joined({who, row.step, row.detail.empty() ? "no answer yet" : row.detail});
}

}  // namespace muster
