#include "producer/cli/node_tools.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "producer/programs.hpp"

namespace muster {

void run_node_tool(const std::string& tool, const std::vector<std::string>& words) {
  std::vector<std::string> all = {detail::find_program("muster-broker", ""), tool};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> argv;
  for (std::string& word : all) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  throw std::runtime_error(fmt::format("cannot start {}: {}", all[0], std::strerror(errno)));
}

}  // namespace muster
