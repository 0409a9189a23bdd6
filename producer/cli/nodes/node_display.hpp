// Shows on standard error how far nodes are: a line for each that is drawn anew on a terminal, else
// a line for each change. Owner: the command; one thread.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "producer/cli/nodes/node_rows.hpp"

namespace muster {

class NodeDisplay {
 public:
  NodeDisplay();
  NodeDisplay(const NodeDisplay&) = delete;
  NodeDisplay& operator=(const NodeDisplay&) = delete;

  void show(const std::vector<NodeRow>& rows);

 private:
  void draw(const std::vector<NodeRow>& rows, std::size_t columns);
  void tell_changes(const std::vector<NodeRow>& rows);

  const bool terminal_;
  std::size_t drawn_lines_ = 0;
  std::string drawn_;
  // By node: states and steps that were told since it was up last. A host that does not answer goes
  // through the same ones at every try.
  std::map<std::string, std::set<std::string>> told_;
};

}  // namespace muster
