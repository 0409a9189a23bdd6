// The worker daemon under signals, freezes and the loss of its parent: real processes.
#include <algorithm>
#include <csignal>

#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

class WorkerDaemon : public Daemons {};

const std::vector<std::string> kFastHeartbeat = {"--heartbeat-interval", "0.1",
                                                 "--heartbeat-misses", "5"};

std::string start_of(const std::string& input, const Child& worker) {
  return input + " " + std::to_string(worker.pid());
}

TEST_F(WorkerDaemon, TerminationLetsTheRunningTaskEndAndGivesTheOthersBack) {
  const auto broker = start_broker();
  const auto first = start_worker({"--log-level", "info"});
  const auto run = start_run(kStartAndWait, {"1", "2", "3"});
  ASSERT_TRUE(wait_for_lines("starts", 1)) << run->error_output();
  first->signal(SIGTERM);
  ASSERT_TRUE(first->wait_for_output("draining")) << first->error_output();
  const auto second = start_worker();
  ASSERT_TRUE(wait_for_lines("starts", 2)) << run->error_output();
  touch("go");
  EXPECT_EQ(first->wait(), 0) << first->error_output();
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), "1\n2\n3\n");
  const std::vector<std::string> expected = {start_of("1", *first), start_of("2", *second),
                                             start_of("3", *second)};
  EXPECT_EQ(lines_of("starts"), expected);
}

TEST_F(WorkerDaemon, ASecondTerminationEndsItAndItsChildrenAtOnce) {
  const auto broker = start_broker();
  const auto worker = start_worker();
  const auto run = start_run("echo $$ > child; exec sleep 1000", {"1"});
  ASSERT_TRUE(wait_for_lines("child", 1)) << run->error_output();
  worker->signal(SIGTERM);
  EXPECT_EQ(worker->wait(std::chrono::milliseconds(200)), std::nullopt) << "it drains";
  worker->signal(SIGTERM);
  EXPECT_EQ(worker->wait(std::chrono::seconds(5)), 0) << worker->error_output();
  EXPECT_TRUE(is_gone("child"));
}

TEST_F(WorkerDaemon, TheDrainTimeoutBoundsWhatRuns) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--drain-timeout", "0"});
  const auto run = start_run("echo $$ > child; exec sleep 1000", {"1"});
  ASSERT_TRUE(wait_for_lines("child", 1)) << run->error_output();
  worker->signal(SIGINT);
  EXPECT_EQ(worker->wait(std::chrono::seconds(5)), 0) << worker->error_output();
  EXPECT_TRUE(is_gone("child"));
}

TEST_F(WorkerDaemon, TheLifelinesEndEndsItAndItsChildren) {
  const auto broker = start_broker();
  Pipe lifeline = make_pipe();
  ChildOptions options;
  options.descriptors = {{lifeline.read_end.get(), 10}};
  const auto worker = start_worker({"--lifeline", "10"}, options);
  const auto run = start_run("echo $$ > child; exec sleep 1000", {"1"});
  ASSERT_TRUE(wait_for_lines("child", 1)) << run->error_output();
  lifeline.write_end.reset();
  EXPECT_EQ(worker->wait(), 0) << worker->error_output();
  EXPECT_TRUE(is_gone("child"));
}

// A frozen worker (a laptop's lid, a stalled disk) is lost, its task runs elsewhere, and what it
// says after it thawed changes nothing.
TEST_F(WorkerDaemon, AFrozenWorkerIsReplacedAndComesBack) {
  const auto broker = start_broker(kFastHeartbeat);
  const auto frozen = start_worker();
  const auto run = start_run(kStartAndWait, {"1", "2"});
  ASSERT_TRUE(wait_for_lines("starts", 1)) << run->error_output();
  frozen->signal(SIGSTOP);
  const auto other = start_worker({"--slots", "2"});
  ASSERT_TRUE(wait_for_lines("starts", 3)) << broker->error_output();
  frozen->signal(SIGCONT);
  EXPECT_TRUE(wait_until([&] {
    return status_json().find("\"total_slots\": 3") != std::string::npos;
  })) << status_json();
  touch("go");
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), "1\n2\n");
  std::vector<std::string> expected = {start_of("1", *frozen), start_of("1", *other),
                                       start_of("2", *other)};
  std::vector<std::string> starts = lines_of("starts");
  std::sort(starts.begin(), starts.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(starts, expected);
  const std::string said = frozen->error_output();
  EXPECT_LE(std::count(said.begin(), said.end(), '\n'), 5)
      << "it connects again once, not in a storm";
}

// What cannot work is said in one line, with status 2 and before anything connects.
TEST_F(WorkerDaemon, WhatCannotWorkIsSaidInOneLine) {
  const std::string plugin = MUSTER_PLUGIN_DIR "/test_tasks.so";
  touch("text.so");
  const std::vector<std::pair<Words, std::string>> cases = {
      {{"--plugin", "/no/such.so"}, "'/no/such.so'"},
      {{"--plugin", folder_.path("text.so")}, "built with <muster/task.hpp>"},
      {{"--plugin", "/lib/x86_64-linux-gnu/libm.so.6"}, "MUSTER_PLUGIN"},
      {{"--plugin", plugin, "--plugin", plugin}, "registered already"},
      {{"--python", "/no/such/python"}, "--python none"},
      {{"--python-version", "three"}, "must look like 3.11"},
      {{"--connect", "tcp://127.0.0.1:5555"}, "use ipc:///path/to/socket"},
      {{"--connect", "somewhere"}, "ipc:///path/to/socket"},
      {{"--lifeline", "77"}, "reading end of a pipe"},
  };
  for (const auto& [options, advice] : cases) {
    Words argv = {MUSTER_BIN_DIR "/muster-worker"};
    if (options[0] != "--connect") argv.insert(argv.end(), {"--connect", endpoint_});
    argv.insert(argv.end(), options.begin(), options.end());
    const Finished ended = run_to_end(argv);
    EXPECT_EQ(ended.status, 2) << options.at(1);
    EXPECT_NE(ended.error_output.find(advice), std::string::npos) << ended.error_output;
    EXPECT_EQ(std::count(ended.error_output.begin(), ended.error_output.end(), '\n'), 1)
        << ended.error_output;
  }
}

TEST_F(WorkerDaemon, ARunnerThatIsKilledBetweenTasksIsStartedAgain) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--executor", "process"});
  const auto runner_of = [&] {
    const std::string id = std::to_string(worker->pid());
    std::ifstream file("/proc/" + id + "/task/" + id + "/children");
    // By its name: sanitizers start helpers as children of the worker. And not between clone() and
    // exec(), when it still shares the worker's memory.
    for (pid_t child = 0; file >> child;) {
      std::ifstream program("/proc/" + std::to_string(child) + "/comm");
      std::string name;
      if (program >> name && name == "muster-runner") return child;
    }
    return 0;
  };
  pid_t last = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(wait_until([&] { return runner_of() != 0 && runner_of() != last; }));
    last = runner_of();
    kill(last, SIGKILL);
  }
  const auto run = start_run("echo {}", {"1"});
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_TRUE(wait_until([&] { return runner_of() != 0 && runner_of() != last; }));
}

}  // namespace
}  // namespace muster::testing
