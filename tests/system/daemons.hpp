// A standing broker and standing workers for tests that stop, kill and restart them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/child.hpp"

namespace muster::testing {

class Daemons : public ::testing::Test {
 protected:
  using Words = std::vector<std::string>;

  std::unique_ptr<Child> start_broker(const Words& options = {}) {
    Words argv = {MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint_};
    argv.insert(argv.end(), options.begin(), options.end());
    return std::make_unique<Child>(argv);
  }
  // One slot; it has the test's plug-in.
  std::unique_ptr<Child> start_worker(const Words& options = {}, const ChildOptions& child = {}) {
    Words argv = {
        MUSTER_BIN_DIR "/muster-worker",   "--connect", endpoint_, "--slots", "1", "--plugin",
        MUSTER_PLUGIN_DIR "/test_tasks.so"};
    argv.insert(argv.end(), options.begin(), options.end());
    return std::make_unique<Child>(argv, child);
  }
  // `muster run` with a shell command, run in the test's folder.
  std::unique_ptr<Child> start_run(const std::string& command, const Words& inputs,
                                   const Words& options = {}) {
    Words argv = {MUSTER_BIN_DIR "/muster", "run",    "--broker", endpoint_, "--workdir",
                  folder_.path("."),        "--shell"};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.insert(argv.end(), {command, ":::"});
    argv.insert(argv.end(), inputs.begin(), inputs.end());
    return std::make_unique<Child>(argv);
  }
  std::string status_json() {
    return run_to_end({MUSTER_BIN_DIR "/muster", "status", "--json", "--broker", endpoint_}).output;
  }

  std::vector<std::string> lines_of(const std::string& name) const {
    std::vector<std::string> lines;
    std::ifstream file(folder_.path(name));
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  bool wait_for_lines(const std::string& name, std::size_t count) const {
    return wait_until([&] { return lines_of(name).size() >= count; });
  }
  void touch(const std::string& name) const { std::ofstream(folder_.path(name)).put('\n'); }
  // Whether the process whose id stands in the file has ended; a zombie has.
  bool is_gone(const std::string& name) const {
    const std::string stat = "/proc/" + lines_of(name).at(0) + "/stat";
    return wait_until([&] {
      std::ifstream file(stat);
      std::string word;
      return !(file >> word >> word >> word) || word == "Z";
    });
  }

  TemporaryFolder folder_;
  const std::string endpoint_ = folder_.endpoint("broker");
};

// Says who starts it (the input, and the worker as the shell's parent), then waits for `go`.
inline constexpr const char* kStartAndWait =
    "echo {} $PPID >> starts; while [ ! -e go ]; do sleep 0.02; done; echo {}";

}  // namespace muster::testing
