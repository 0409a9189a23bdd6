#include "producer/cli/nodes/node_tools.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "common/system/pointers.hpp"
#include "producer/embedded/programs.hpp"

namespace muster {

void run_node_tool(const std::string& tool, const std::vector<std::string>& words) {
  std::vector<std::string> all = {detail::find_program("muster-broker", ""), tool};
  all.insert(all.end(), words.begin(), words.end());
  ::execv(all[0].c_str(), pointers_to(all).data());
  throw std::runtime_error(fmt::format("cannot start {}: {}", all[0], std::strerror(errno)));
}

}  // namespace muster
