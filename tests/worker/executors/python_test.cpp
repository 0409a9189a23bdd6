// Which interpreter a worker takes, what its runners find in their environment, and where python
// tasks go. The interpreters are shell scripts, or the test's own runner.
#include "worker/executors/python.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "tests/support/child.hpp"
#include "tests/worker/executors/executor_env.hpp"
#include "worker/executors/task_router.hpp"

namespace muster {
namespace {

class Interpreter : public ::testing::Test {
 protected:
  // A script that stands for an interpreter.
  std::string script(const std::string& text) {
    std::string path = folder.path("python3");
    std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  static std::string complaint(const std::string& interpreter) {
    try {
      find_python(interpreter, "");
    } catch (const PythonError& error) {
      return error.what();
    }
    ADD_FAILURE() << "nothing was wrong with " << interpreter;
    return "";
  }

  testing::TemporaryFolder folder;
};

TEST_F(Interpreter, SaysItsVersion) {
  const std::string path =
      script("[ \"$*\" = '-m muster.runner --version' ] && echo 3.12 " MUSTER_VERSION);
  const Python python = find_python(path, "");
  EXPECT_EQ(python.interpreter, path);
  EXPECT_EQ(python.version, "3.12");
}

TEST_F(Interpreter, IsNotAskedWhenItsVersionIsGivenOrNoneIsWanted) {
  EXPECT_EQ(find_python("/no/such/python", "3.11").version, "3.11");
  EXPECT_EQ(find_python("", "3.11").interpreter, "python3");
  EXPECT_EQ(find_python("none", "").version, "");
  EXPECT_THROW(find_python("", "three"), PythonError);
}

TEST_F(Interpreter, ThatCannotRunTasksIsNamedWithWhatToDo) {
  for (const std::string& interpreter :
       {std::string("/no/such/python"), script("echo No module named muster >&2; exit 1")}) {
    const std::string text = complaint(interpreter);
    EXPECT_NE(text.find(interpreter), std::string::npos) << text;
    EXPECT_NE(text.find("--python none"), std::string::npos) << text;
  }
  EXPECT_NE(complaint(script("echo No module >&2; exit 1")).find("No module"), std::string::npos);
  EXPECT_NE(complaint(script("echo 3.11 9.9.9")).find("has muster 9.9.9"), std::string::npos);
  EXPECT_NE(complaint(script("echo nonsense")).find("nonsense"), std::string::npos);
}

TEST_F(Interpreter, OfThePathIsTakenOnlyIfItWorks) {
  const std::string before = ::getenv("PATH");
  script("exit 1");
  ::setenv("PATH", folder.path("").c_str(), 1);
  EXPECT_EQ(find_python("", "").version, "");
  script("echo 3.11 " MUSTER_VERSION);
  EXPECT_EQ(find_python("", "").version, "3.11");
  ::setenv("PATH", before.c_str(), 1);
}

TEST(RunnerEnvironment, SharesTheCoresAmongTheSlots) {
  ::unsetenv("OMP_NUM_THREADS");
  ::setenv("MKL_NUM_THREADS", "7", 1);
  const auto pairs = runner_environment(4, 16, "node7");
  std::map<std::string, std::string> found(pairs.begin(), pairs.end());
  EXPECT_EQ(found["OMP_NUM_THREADS"], "4");
  EXPECT_EQ(found["LOKY_MAX_CPU_COUNT"], "4");
  EXPECT_EQ(found["MUSTER_SLOT_CORES"], "4");
  EXPECT_EQ(found["MUSTER_NODE"], "node7");
  EXPECT_EQ(found.count("MKL_NUM_THREADS"), 0U) << "it is set already";
  EXPECT_EQ(found.count("PYTHONUNBUFFERED"), 0U);
  ::unsetenv("MKL_NUM_THREADS");
  for (const auto& [name, text] : runner_environment(8, 2, "node7")) {
    EXPECT_TRUE(name == "MUSTER_NODE" || text == "1") << name;
  }
}

class PythonRouter : public ::testing::TestWithParam<std::string> {
 protected:
  static ExecutorEnv router(const Python& python) {
    static const FunctionRegistry kFunctions;
    return ExecutorEnv(std::make_unique<TaskRouter>(
        TaskRouterOptions{GetParam(), 2, {}, "node7", 1000, python, 6}, kFunctions));
  }
  static void ask(ExecutorEnv& env, std::uint64_t sequence, const std::string& word,
                  const std::string& version = "3.11") {
    env.start(sequence, {FunctionKind::python, "work", version}, Bytes::copy(word));
  }
  const Python python{MUSTER_BIN_DIR "/test_runner", "3.11"};
};
INSTANTIATE_TEST_SUITE_P(Every, PythonRouter, ::testing::Values("process", "thread"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(PythonRouter, RunsPythonTasksBesideCommands) {
  ExecutorEnv env = router(python);
  ask(env, 0, "environment OMP_NUM_THREADS");
  ask(env, 1, "big 1001");
  env.start(2, {FunctionKind::command, ""},
            encode_command_task({{"/bin/echo", "hello"}, {}, {}, {}, 0}));
  env.wait_for(3);
  EXPECT_EQ(env.of(0).outcome.body.bytes.text(), "3");
  EXPECT_EQ(env.failure(1).kind, "result_too_large");
  EXPECT_EQ(env.of(2).outcome.status, OutcomeStatus::result);
}

TEST_P(PythonRouter, RefusesTasksOfAnotherInterpreter) {
  ExecutorEnv env = router(python);
  ask(env, 0, "echo", "3.12");
  env.wait_for(1);
  EXPECT_EQ(env.failure(0).kind, "wrong_interpreter");
  EXPECT_NE(env.failure(0).message.find("3.12"), std::string::npos);
  EXPECT_NE(env.failure(0).message.find("3.11"), std::string::npos);
  ExecutorEnv none = router({});
  ask(none, 0, "echo");
  none.wait_for(1);
  EXPECT_EQ(none.failure(0).kind, "unsupported");
}

}  // namespace
}  // namespace muster
