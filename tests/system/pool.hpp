// A real broker and worker for system tests of producers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/system/program.hpp"

namespace muster::test {

class Pool {
 public:
  explicit Pool(std::vector<std::string> broker_options = {})
      : broker_options_(std::move(broker_options)) {}

  std::string endpoint() const { return "ipc://" + folder_ / "broker"; }
  void start_broker() {
    std::vector<std::string> argv = {MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint(),
                                     "--log-level", "error"};
    argv.insert(argv.end(), broker_options_.begin(), broker_options_.end());
    broker = std::make_unique<Program>(argv);
  }
  void start_worker(int slots = 2, const std::string& executor = "thread") {
    worker = std::make_unique<Program>(std::vector<std::string>{
        MUSTER_BIN_DIR "/muster-worker", "--connect", endpoint(), "--slots", std::to_string(slots),
        "--executor", executor, "--plugin", MUSTER_PLUGIN_DIR "/test_tasks.so", "--log-level",
        "error"});
  }
  void start() {
    start_broker();
    start_worker();
  }

  std::unique_ptr<Program> broker;
  std::unique_ptr<Program> worker;

 private:
  std::vector<std::string> broker_options_;
  Folder folder_;
};

}  // namespace muster::test
