// Command tasks against real commands.
#include "worker/executors/command_executor.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "common/protocol/codec.hpp"
#include "tests/worker/blobs/blob_rig.hpp"
#include "tests/worker/executors/executor_env.hpp"

namespace muster {
namespace {

class Commands : public ::testing::Test {
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

// --- Files --------------------------------------------------------------------------------------

class CommandsWithFiles : public ::testing::Test {
 protected:
  void run(std::uint64_t sequence, const std::string& script,
           const std::vector<std::pair<std::string, std::string>>& inputs,
           const std::vector<std::string>& outputs) {
    CommandTask task;
    task.argv = {"sh", "-c", script};
    task.outputs = outputs;
    std::vector<BlobName> blobs;
    for (const auto& [name, content] : inputs) {
      task.inputs.push_back(name);
      blobs.push_back(rig.put(content));
    }
    const Payload body{encode_command_task(task), 0};
    env.start(sequence, {FunctionKind::command, ""},
              blobs.empty() ? body : with_blobs(blobs, body));
  }
  CommandResult result(std::uint64_t sequence) {
    const Outcome& outcome = env.of(sequence).outcome;
    EXPECT_EQ(outcome.status, OutcomeStatus::result) << env.failure(sequence).message;
    return decode_command_result(body_of(outcome.body).bytes).value_or(CommandResult{});
  }
  void SetUp() override {
    std::filesystem::create_directory(place);
    ::setenv("TMPDIR", place.c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("TMPDIR");
    EXPECT_TRUE(std::filesystem::is_empty(place)) << "a command's folder was left";
  }

  BlobRig rig;
  const std::string place = rig.folder.path("commands");
  ExecutorEnv env{std::make_unique<CommandExecutor>(
      CommandExecutorOptions{2, "node", 1 << 20, std::chrono::milliseconds(100)})};
};

TEST_F(CommandsWithFiles, ReadAndWriteThem) {
  run(0, "cat in.txt deep/er/in > out.txt; printf 2 > results/two; ls; pwd",
      {{"in.txt", "first "}, {"deep/er/in", "second"}}, {"out.txt", "results/two"});
  env.wait_for(1);
  const CommandResult done = result(0);
  EXPECT_EQ(done.outputs, (std::vector<std::string>{"out.txt", "results/two"}));
  EXPECT_EQ(rig.take(env.of(0).outcome.body), (std::vector<std::string>{"first second", "2"}));
  EXPECT_TRUE(done.output.text().starts_with("deep\nin.txt\nout.txt\nresults\n" + place));
}

TEST_F(CommandsWithFiles, HaveTheirInputsWhateverBecomesOfTheBlobs) {
  run(0,
      "printf here > " + rig.folder.path("started") + "; until [ -e " + rig.folder.path("go") +
          " ]; do sleep 0.01; done; cat input",
      {{"input", "still there"}}, {});
  env.wait_until([&] { return std::filesystem::exists(rig.folder.path("started")); });
  for (const auto& entry : std::filesystem::directory_iterator(rig.folder.path("memory"))) {
    if (entry.is_regular_file()) std::filesystem::remove(entry.path());
  }
  std::ofstream(rig.folder.path("go")).close();
  env.wait_for(1);
  EXPECT_EQ(result(0).output.text(), "still there");
}

TEST_F(CommandsWithFiles, SayWhichOutputIsMissing) {
  run(0, "echo out; echo err >&2; touch one", {}, {"one", "two"});
  run(1, "mkdir one", {}, {"one"});
  run(2, "echo no >&2; exit 4", {}, {"one"});
  env.wait_for(3);
  const Failure missing = env.failure(0);
  EXPECT_EQ(missing.kind, "missing_output");
  EXPECT_NE(missing.message.find("'two'"), std::string::npos) << missing.message;
  EXPECT_EQ(missing.traceback, "err\n");
  EXPECT_EQ(decode_command_result(missing.extra)->exit_status, 0);
  EXPECT_EQ(decode_command_result(missing.extra)->output.text(), "out\n");
  EXPECT_NE(env.failure(1).message.find("not an ordinary file"), std::string::npos);
  EXPECT_EQ(env.failure(2).kind, "exit");
  EXPECT_TRUE(rig.incoming().empty());
}

TEST_F(CommandsWithFiles, MayNotLeaveTheirFolder) {
  std::uint64_t sequence = 0;
  for (const char* name : {"/etc/passwd", "../up", "a/../../b", "", ".", "a//b", "a/"}) {
    run(sequence++, "true", {}, {name});
    run(sequence++, "true", {{name, "content"}}, {});
  }
  run(sequence++, "true", {{"same", "content"}}, {"same"});
  CommandTask elsewhere;
  elsewhere.argv = {"true"};
  elsewhere.directory = "/tmp";
  elsewhere.outputs = {"file"};
  env.start(sequence++, {FunctionKind::command, ""}, encode_command_task(elsewhere));
  CommandTask short_of_blobs;
  short_of_blobs.argv = {"true"};
  short_of_blobs.inputs = {"one"};
  env.start(sequence++, {FunctionKind::command, ""}, encode_command_task(short_of_blobs));
  env.wait_for(sequence);
  for (std::uint64_t i = 0; i < sequence; ++i) EXPECT_EQ(env.failure(i).kind, "bad_arguments");
}

TEST_F(CommandsWithFiles, ThatAreLargeOrManyAreTakenInPieces) {
  // On another file system than the blobs: it has to be copied.
  const std::string other = "/dev/shm/muster-test-" + std::to_string(::getpid());
  std::filesystem::create_directory(other);
  ::setenv("TMPDIR", other.c_str(), 1);
  run(0, "head -c 50000000 /dev/zero > large; printf small > small", {}, {"large", "small"});
  env.wait_for(1);
  const std::vector<std::string> contents = rig.take(env.of(0).outcome.body);
  ASSERT_EQ(contents.size(), 2U);
  EXPECT_EQ(contents[0].size(), 50'000'000U);
  EXPECT_EQ(contents[1], "small");
  EXPECT_TRUE(std::filesystem::is_empty(other));
  std::filesystem::remove(other);
}

TEST_F(CommandsWithFiles, ThatAreStoppedLeaveNothing) {
  run(0, "touch out; sleep 100", {{"in", "x"}}, {"out"});
  env.wait_until([&] {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(place)) {
      if (entry.path().filename() == "out") return true;
    }
    return false;
  });
  env.executor->stop({ExecutorEnv::lease(0)});
  env.wait_for(1);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::cancelled);
  EXPECT_TRUE(rig.incoming().empty());
}

TEST_F(CommandsWithFiles, LargeOutputTravelsAsABlob) {
  CommandTask task;
  task.argv = {"sh", "-c", "head -c 2000000 /dev/zero"};
  task.output_limit_bytes = 3'000'000;
  env.start(0, {FunctionKind::command, ""}, encode_command_task(task));
  env.wait_for(1);
  EXPECT_TRUE(is_one_blob(env.of(0).outcome.body));
  const std::vector<std::string> contents = rig.take(env.of(0).outcome.body);
  ASSERT_EQ(contents.size(), 1U);
  EXPECT_EQ(decode_command_result(Bytes::copy(contents[0]))->output.size(), 2'000'000U);
}

}  // namespace
}  // namespace muster
