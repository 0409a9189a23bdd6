// The process that `muster up` leaves beside its broker starts it again after a crash.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "producer/embedded/supervisor.hpp"
#include "tests/system/daemons.hpp"

namespace muster {
namespace {

using testing::Child;
using testing::run_to_end;
using testing::wait_until;

class KeepBroker : public testing::Daemons {
 protected:
  std::unique_ptr<Child> start_keeper(const Words& options = {}) {
    Words argv = {MUSTER_BIN_DIR "/muster",        "keep-broker", endpoint_,
                  MUSTER_BIN_DIR "/muster-broker", "--listen",    endpoint_};
    argv.insert(argv.end(), options.begin(), options.end());
    auto keeper = std::make_unique<Child>(argv);
    EXPECT_TRUE(keeper->wait_for_output("listening on")) << keeper->error_output();
    return keeper;
  }
  // The children of the keeper; a broker that ended is not among them.
  static std::vector<pid_t> brokers_of(const Child& keeper) {
    std::vector<pid_t> found;
    const std::string tasks = "/proc/" + std::to_string(keeper.pid()) + "/task";
    for (const auto& task : std::filesystem::directory_iterator(tasks)) {
      std::ifstream file(task.path() / "children");
      for (pid_t child = 0; file >> child;) found.push_back(child);
    }
    return found;
  }
  // Kills the broker and waits for the next one.
  static void kill_broker(const Child& keeper, int signal) {
    const std::vector<pid_t> before = brokers_of(keeper);
    ASSERT_EQ(before.size(), 1U);
    ASSERT_EQ(kill(before[0], signal), 0);
    EXPECT_TRUE(wait_until([&] {
      const std::vector<pid_t> now = brokers_of(keeper);
      return now.size() == 1 && now != before;
    }));
  }
  static bool lives(pid_t process) { return kill(process, 0) == 0; }
};

TEST_F(KeepBroker, AKilledBrokerIsBackAndNothingIsLostOrRunAgain) {
  const auto keeper = start_keeper();
  const auto worker = start_worker();
  const auto run = start_run(testing::kStartAndWait, {"a"});
  ASSERT_TRUE(wait_for_lines("starts", 1));
  for (const int signal : {SIGKILL, SIGABRT}) {
    kill_broker(*keeper, signal);
    EXPECT_NE(status_json(), "") << "it is served meanwhile";
  }
  EXPECT_TRUE(
      wait_until([&] { return status_json().find("leases_adopted") != std::string::npos; }));
  touch("go");
  EXPECT_EQ(run->wait(), 0) << run->error_output() << keeper->error_output();
  EXPECT_EQ(run->output(), "a\n");
  EXPECT_EQ(lines_of("starts").size(), 1U);
}

TEST_F(KeepBroker, ABrokerThatWasToldToEndIsNotStartedAgain) {
  const auto keeper = start_keeper();
  const auto down = run_to_end({MUSTER_BIN_DIR "/muster", "down", "--broker", endpoint_});
  EXPECT_EQ(down.status, 0) << down.error_output;
  EXPECT_EQ(keeper->wait(), 0) << keeper->error_output();
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path("."))) << "no lock, socket or log is left";
}

TEST_F(KeepBroker, TheKeepersEndIsTheBrokersEnd) {
  const auto keeper = start_keeper();
  const pid_t broker = brokers_of(*keeper).at(0);
  keeper->signal(SIGTERM);
  EXPECT_EQ(keeper->wait(), 0) << keeper->error_output();
  EXPECT_FALSE(lives(broker));
  const auto another = start_keeper();
  const pid_t orphan = brokers_of(*another).at(0);
  another->signal(SIGKILL);
  EXPECT_TRUE(another->wait());
  EXPECT_TRUE(wait_until([&] { return !lives(orphan); })) << "its lifeline ended";
}

TEST_F(KeepBroker, WhatCannotStartIsNotTriedAgain) {
  const auto keeper = start_keeper();
  const auto second =
      run_to_end({MUSTER_BIN_DIR "/muster", "keep-broker", folder_.endpoint("other"),
                  MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint_});
  EXPECT_EQ(second.status, 2);
  EXPECT_NE(second.error_output.find("already listens"), std::string::npos) << second.error_output;
  EXPECT_NE(second.error_output.find("not started again"), std::string::npos);
}

TEST(Supervisor, GivesUpOnAChildThatDiesAgainAndAgain) {
  detail::Supervisor supervisor;
  supervisor.keep_alive({true, 2});
  const testing::TemporaryFolder folder;
  supervisor.start({"/bin/sh", "-c", "echo >> " + folder.path("starts") + "; kill -KILL $$"});
  supervisor.run();
  pollfd over{supervisor.over_descriptor(), POLLIN, 0};
  ASSERT_EQ(::poll(&over, 1, 60'000), 1);
  EXPECT_FALSE(supervisor.ended_well());
  std::ifstream starts(folder.path("starts"));
  std::ostringstream lines;
  lines << starts.rdbuf();
  EXPECT_EQ(lines.str(), "\n\n\n");
}

}  // namespace
}  // namespace muster
