// `muster up`, `down`, `doctor` and `clean`: their options, and who does them.
// Owner: main. Threads: one.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "producer/cli/nodes/up.hpp"

namespace muster {

class NodeCommands {
 public:
  explicit NodeCommands(CLI::App& app);  // adds the subcommands
  NodeCommands(const NodeCommands&) = delete;
  NodeCommands& operator=(const NodeCommands&) = delete;

  // The subcommand that the command line asks for; nothing: another.
  const CLI::App* parsed() const;
  // Does it; returns the exit status. Throws muster::Error and std::runtime_error.
  int run();

 private:
  CLI::App* up_;
  CLI::App* down_;
  CLI::App* doctor_;
  CLI::App* clean_;
  UpOptions up_options_;
  double patience_seconds_ = 30;
  DownOptions down_options_;
  bool now_ = false;
  std::vector<std::string> tool_words_;
  bool force_ = false;
};

}  // namespace muster
