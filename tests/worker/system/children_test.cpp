// Executors whose children end while other processes hold copies of what the executor watches, or
// while there are no descriptors for a next child.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "tests/support/child.hpp"
#include "tests/worker/executors/executor_env.hpp"
#include "tests/worker/system/descriptor_rig.hpp"
#include "worker/executors/command_executor.hpp"
#include "worker/executors/process_executor.hpp"
#include "worker/executors/shared_runner_executor.hpp"

namespace muster {
namespace {

using namespace std::chrono_literals;

class CommandChildren : public ::testing::Test {
 protected:
  static std::unique_ptr<Executor> make(std::uint32_t slots) {
    return std::make_unique<CommandExecutor>(CommandExecutorOptions{slots, "node", 8 << 20, 100ms});
  }
  void shell(std::uint64_t sequence, const std::string& script,
             std::chrono::milliseconds timeout = {}) {
    CommandTask task;
    task.argv = {"sh", "-c", script};
    env.start(sequence, {FunctionKind::command, ""}, encode_command_task(task), timeout);
  }
  // Runs until `open` is called, at most a while: whoever waits for it meanwhile is found out.
  void shell_until(std::uint64_t sequence, const std::string& gate, const std::string& then) {
    shell(sequence, "n=0; until [ -e " + folder.path(gate) +
                        " ] || [ $n = 500 ]; do sleep 0.01; n=$((n+1)); done; " + then);
  }
  void open(const std::string& gate) const { std::ofstream(folder.path(gate)).close(); }
  CommandResult result(std::uint64_t sequence) {
    const TaskFinish& task = env.of(sequence);
    EXPECT_EQ(task.outcome.status, OutcomeStatus::result);
    return decode_command_result(task.outcome.body.bytes).value_or(CommandResult{});
  }

  const BlockAlarm alarm;
  const testing::TemporaryFolder folder;
  ExecutorEnv env{make(1)};
};

TEST_F(CommandChildren, AnOldExitIsNotTakenForTheNextCommands) {
  shell_until(0, "first", "echo first");
  const CopyHolder holder;
  open("first");
  env.wait_for(1);
  EXPECT_EQ(result(0).output.text(), "first\n");
  shell_until(1, "second", "echo second");
  env.poll();  // here the old exit would be reported
  EXPECT_EQ(env.finished.size(), 1U);
  open("second");
  env.wait_for(2);
  EXPECT_EQ(result(1).output.text(), "second\n");
}

TEST_F(CommandChildren, AnOldPipeIsNotReadForTheNextCommand) {
  shell_until(0, "first", "head -c 300000 /dev/zero");
  // Long enough for its pipes to be watched.
  env.wait_until([&] { return env.next_poll == kNever; });
  const CopyHolder holder;
  open("first");
  env.wait_for(1);
  EXPECT_EQ(result(0).output.size(), 300'000U);
  shell(1, "head -c 400000 /dev/zero");
  env.wait_for(2);
  EXPECT_EQ(result(1).output.size(), 400'000U);
  // Nothing of what is closed keeps the loop awake.
  env.poll();
  pollfd wake{env.executor->wake_descriptor(), POLLIN, 0};
  EXPECT_EQ(::poll(&wake, 1, 0), 0);
}

TEST_F(CommandChildren, ThatWriteForEverDoNotHoldTheLoop) {
  shell(0, "yes", 200ms);
  env.wait_for(1);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::timed_out);
}

TEST_F(CommandChildren, WhatTheyLeaveBehindMayWriteForEver) {
  shell(0, "yes & echo $! > " + folder.path("pid"));
  env.wait_for(1);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::result);
  long writer = 0;
  std::ifstream(folder.path("pid")) >> writer;
  if (writer > 1) ::kill(static_cast<pid_t>(writer), SIGKILL);
}

TEST_F(CommandChildren, WaitForDescriptors) {
  {
    const NoDescriptors none;
    shell(0, "echo here");
    for (auto later = 0s; later < 30s; later += 1s) {
      const Executor::Results results = env.executor->poll(steady_now() + later);
      EXPECT_TRUE(results.finished.empty());
      EXPECT_LT(results.next_poll, steady_now() + later + 1s);
    }
  }
  env.executor->poll(steady_now() + 31s);
  env.wait_for(1);
  EXPECT_EQ(result(0).output.text(), "here\n");
}

TEST_F(CommandChildren, StartWhenAnotherOneGivesItsDescriptorsBack) {
  ExecutorEnv two{make(2)};
  std::swap(env.executor, two.executor);
  shell_until(0, "first", "echo first");
  std::optional<NoDescriptors> none(std::in_place);
  shell(1, "echo second");
  env.poll();
  EXPECT_TRUE(env.finished.empty());
  none.reset();
  open("first");
  env.wait_for(2);
  EXPECT_EQ(result(1).output.text(), "second\n");
}

TEST_F(CommandChildren, FailWhenThereAreNoDescriptorsForALongTime) {
  const NoDescriptors none;
  shell(0, "true");
  for (const Duration later : {1s, 70s}) {
    for (TaskFinish& task : env.executor->poll(steady_now() + later).finished) {
      env.finished.push_back(std::move(task));
    }
  }
  ASSERT_EQ(env.finished.size(), 1U);
  EXPECT_EQ(env.failure(0).kind, "start_failed");
  EXPECT_NE(env.failure(0).message.find("ulimit -n"), std::string::npos);
}

// --- Runners ------------------------------------------------------------------------------------

class RunnerChildren : public ::testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<Executor> make() {
    const RunnerCommand command{{MUSTER_BIN_DIR "/test_runner"}, {}};
    if (GetParam() == "shared") {
      return std::make_unique<SharedRunnerExecutor>(SharedRunnerExecutorOptions{1, command});
    }
    return std::make_unique<ProcessExecutor>(ProcessExecutorOptions{1, command, false});
  }
  void give(std::uint64_t sequence, const std::string& word) {
    env.start(sequence, {FunctionKind::python, "work", "3.11", {}}, Bytes::copy(word));
  }

  const BlockAlarm alarm;
  ExecutorEnv env{make()};
};
INSTANTIATE_TEST_SUITE_P(Every, RunnerChildren, ::testing::Values("process", "shared"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(RunnerChildren, AnOldExitIsNotTakenForTheNextRunners) {
  give(0, "echo started");
  env.wait_for(1);
  const CopyHolder holder;
  give(1, "exit 3");
  env.wait_for(2);
  EXPECT_EQ(env.failure(1).kind, "crashed");
  give(2, "echo again");
  env.wait_for(3);
  EXPECT_EQ(env.of(2).outcome.body.bytes.text(), "again");
}

TEST_P(RunnerChildren, WaitForDescriptors) {
  give(0, "echo started");
  env.wait_for(1);
  {
    const NoDescriptors none;
    give(1, "exit 3");
    env.wait_for(2);
    give(2, "echo here");
    for (auto later = 1s; later < 30s; later += 1s) {
      EXPECT_TRUE(env.executor->poll(steady_now() + later).finished.empty());
    }
  }
  env.executor->poll(steady_now() + 31s);
  env.wait_for(3);
  EXPECT_EQ(env.of(2).outcome.body.bytes.text(), "here");
}

}  // namespace
}  // namespace muster
