// Command tasks against real commands.
#include "worker/command_executor.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "common/codec.hpp"
#include "tests/worker/executor_env.hpp"

namespace muster {
namespace {

class Commands : public testing::Test {
 protected:
  static std::unique_ptr<Executor> make() {
    return std::make_unique<CommandExecutor>(
        CommandExecutorOptions{2, "node", 1 << 20, std::chrono::milliseconds(100)});
  }
  void run(std::uint64_t sequence, const CommandTask& task,
           std::chrono::milliseconds timeout = {}) {
    env.start(sequence, {FunctionKind::command, ""}, encode_command_task(task), timeout);
  }
  void shell(std::uint64_t sequence, const std::string& script,
             std::chrono::milliseconds timeout = {}) {
    CommandTask task;
    task.argv = {"sh", "-c", script};
    run(sequence, task, timeout);
  }
  CommandResult result(std::uint64_t sequence) {
    const TaskFinish& task = env.of(sequence);
    EXPECT_EQ(task.outcome.status, OutcomeStatus::result);
    return decode_command_result(task.outcome.body.bytes).value_or(CommandResult{});
  }
  ExecutorEnv env{make()};
};

TEST_F(Commands, CaptureBothStreamsAndMeasureTheRun) {
  shell(0, "echo out; echo err >&2");
  env.wait_for(1);
  const CommandResult done = result(0);
  EXPECT_EQ(done.output.text(), "out\n");
  EXPECT_EQ(done.error_output.text(), "err\n");
  EXPECT_EQ(done.exit_status, 0);
  EXPECT_EQ(done.node, "node");
  EXPECT_GT(done.runtime_us, 0U);
  EXPECT_GT(done.started_unix_us, 1'600'000'000'000'000U);
}

TEST_F(Commands, GetInputEnvironmentAndDirectory) {
  CommandTask task;
  task.argv = {"sh", "-c", "cat; printf %s \"$COLOUR\"; pwd; printenv PATH >/dev/null"};
  task.input = Bytes::copy(std::string(200'000, 'x'));
  task.environment = {{"COLOUR", "blue"}};
  task.directory = "/usr";
  run(0, task);
  shell(1, "cat");  // without input: nothing, at once
  env.wait_for(2);
  EXPECT_EQ(result(0).output.text(), std::string(200'000, 'x') + "blue/usr\n");
  EXPECT_TRUE(result(1).output.empty());
}

TEST_F(Commands, ReportHowTheyFailed) {
  shell(0, "echo why >&2; exit 3");
  shell(1, "kill -9 $$");
  env.wait_for(2);
  EXPECT_EQ(env.failure(0).kind, "exit");
  EXPECT_EQ(env.failure(0).message, "exit status 3");
  EXPECT_EQ(env.failure(0).traceback, "why\n");
  EXPECT_EQ(decode_command_result(env.failure(0).extra)->exit_status, 3);
  EXPECT_EQ(env.failure(1).message, "killed by signal 9 (Killed)");
  EXPECT_EQ(decode_command_result(env.failure(1).extra)->signal, 9);
}

TEST_F(Commands, SayWhyTheyCannotStart) {
  CommandTask missing;
  missing.argv = {"muster-no-such-program"};
  run(0, missing);
  CommandTask directory;
  directory.argv = {"true"};
  directory.directory = "/nowhere";
  run(1, directory);
  CommandTask forbidden;
  forbidden.argv = {"/etc/passwd"};
  run(2, forbidden);
  env.start(3, {FunctionKind::command, ""}, Bytes::copy("rubbish"));
  env.wait_for(4);
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(env.failure(i).kind, "start_failed");
  EXPECT_NE(env.failure(0).message.find("not found in PATH"), std::string::npos);
  EXPECT_NE(env.failure(1).message.find("/nowhere"), std::string::npos);
  EXPECT_NE(env.failure(2).message.find("Permission denied"), std::string::npos);
  EXPECT_EQ(env.failure(3).kind, "bad_arguments");
}

TEST_F(Commands, DropOutputBeyondTheLimit) {
  CommandTask task;
  task.argv = {"sh", "-c", "head -c 300000 /dev/zero"};
  task.output_limit_bytes = 1000;
  run(0, task);
  env.wait_for(1);
  EXPECT_EQ(result(0).output.size(), 1000U);
  EXPECT_TRUE(result(0).truncated);
}

TEST_F(Commands, AreEndedWithTheirChildrenAtTheTimeout) {
  shell(0, "sleep 100 & echo $!; wait", std::chrono::milliseconds(200));
  shell(1, "trap '' TERM; while :; do sleep 0.01; done", std::chrono::milliseconds(50));
  env.wait_for(2);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::timed_out);
  EXPECT_EQ(env.of(1).outcome.status, OutcomeStatus::timed_out);
}

TEST_F(Commands, StopAndRecall) {
  for (std::uint64_t i = 0; i < 4; ++i) shell(i, "sleep 100");
  env.executor->recall({ExecutorEnv::lease(0), ExecutorEnv::lease(3)});
  env.executor->stop({ExecutorEnv::lease(0), ExecutorEnv::lease(1), ExecutorEnv::lease(2)});
  env.wait_for(3);
  EXPECT_EQ(env.handed_back, std::vector<Lease>{ExecutorEnv::lease(3)});
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(env.of(i).outcome.status, OutcomeStatus::cancelled);
  }
}

TEST_F(Commands, DoNotWaitForWhatTheyLeftBehind) {
  shell(0, "sleep 3 & echo done");
  env.wait_for(1);
  EXPECT_EQ(result(0).output.text(), "done\n");
  EXPECT_LT(result(0).runtime_us, 2'500'000U);
}

}  // namespace
}  // namespace muster
