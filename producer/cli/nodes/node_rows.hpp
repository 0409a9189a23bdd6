// How far the nodes of a pool are, as `muster up` and `muster down` tell it. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace muster {

struct NodeRow {
  std::string name;
  std::string address;
  std::string state;  // docs/broker.md, "Nodes"
  std::string step;
  std::string detail;
  std::uint64_t state_ms = 0;
  std::uint32_t slots = 0;  // of its worker; 0: it is not connected
};

// The nodes of a status (PoolStatus::json), in its order. Throws std::runtime_error.
std::vector<NodeRow> node_rows(const std::string& json);

// Whether its worker takes tasks.
bool is_up(const NodeRow& row);

// "connecting: login: trying the agent's keys": what goes on, on one line of at most `columns`
// characters (0: any), without control characters.
std::string describe(const NodeRow& row, std::size_t columns = 0);

// "HOST (ADDRESS): STEP: what is wrong and what to do", all of it.
std::string complaint(const NodeRow& row);

}  // namespace muster
