// What both executors of native functions promise, and what only one of them can.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <muster/pack.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/child.hpp"
#include "tests/worker/executors/executor_env.hpp"
#include "worker/executors/process_executor.hpp"
#include "worker/executors/thread_executor.hpp"
#include "worker/runner/plugin.hpp"

namespace muster {
namespace {

const std::string kRunner = MUSTER_BIN_DIR "/muster-runner";
const std::string kPlugin = MUSTER_PLUGIN_DIR "/test_tasks.so";

const FunctionRegistry& test_functions() {
  static const FunctionRegistry& functions = *[] {
    auto made = std::make_unique<FunctionRegistry>();
    made->load(kPlugin);
    return made.release();  // threads of stuck tasks may outlive every test
  }();
  return functions;
}

std::unique_ptr<Executor> make_executor(const std::string& kind, std::uint32_t slots) {
  if (kind == "thread") return std::make_unique<ThreadExecutor>(test_functions(), slots);
  return std::make_unique<ProcessExecutor>(
      ProcessExecutorOptions{slots, {{kRunner, "--plugin", kPlugin}, {}}, true});
}

template <typename... Arguments>
Bytes pack(const Arguments&... arguments) {
  BytesArena arena;
  return pack_arguments(arena, arguments...);
}
Function native(const std::string& name) { return {FunctionKind::native, name}; }

std::shared_ptr<const JobSpec> job_of(const std::string& function) {
  return std::make_shared<const JobSpec>(JobSpec{native(function), {}, 0, 0, 3});
}

class NativeExecutor : public ::testing::TestWithParam<std::string> {
 protected:
  explicit NativeExecutor() : env(make_executor(GetParam(), 2)) {}
  // After 200 short tasks it expects more of them, and gives several at once to a slot.
  void expect_short_ones(ExecutorEnv& executor) {
    std::vector<TaskStart> tasks;
    for (std::uint64_t i = 0; i < 200; ++i) {
      tasks.push_back({ExecutorEnv::lease(i), square_, {pack(i), 0}});
    }
    executor.executor->start(std::move(tasks));
    executor.wait_for(200);
  }
  static std::ptrdiff_t lines_of(const std::string& path) {
    std::ifstream file(path);
    return std::count(std::istreambuf_iterator<char>(file), {}, '\n');
  }

  const std::shared_ptr<const JobSpec> square_ = job_of("square");
  const std::shared_ptr<const JobSpec> waiting_ = job_of("start_and_wait");
  ExecutorEnv env;
};
INSTANTIATE_TEST_SUITE_P(Every, NativeExecutor, ::testing::Values("thread", "process"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(NativeExecutor, RunsTasks) {
  env.start(0, native("square"), pack(7));
  env.start(1, native("echo"), Bytes::copy("raw"));
  env.wait_for(2);
  EXPECT_EQ(unpack_value<int>(env.of(0).outcome.body.bytes), 49);
  EXPECT_EQ(env.of(1).outcome.body.bytes.text(), "raw");
  EXPECT_GT(env.of(0).busy, Duration::zero());
}

TEST_P(NativeExecutor, RunsManyShortTasksExactlyOnce) {
  constexpr std::uint64_t kTasks = 5000;
  std::vector<TaskStart> tasks;
  for (std::uint64_t i = 0; i < kTasks; ++i) {
    tasks.push_back({ExecutorEnv::lease(i), square_, {pack(i), 0}});
  }
  env.executor->start(std::move(tasks));
  env.wait_for(kTasks);
  std::set<TaskSequence> seen;
  for (const TaskFinish& task : env.finished) {
    seen.insert(task.lease.sequence);
    const std::uint64_t number = value(task.lease.sequence);
    EXPECT_EQ(unpack_value<std::uint64_t>(task.outcome.body.bytes), number * number);
  }
  EXPECT_EQ(seen.size(), kTasks);
}

TEST_P(NativeExecutor, ReportsWhatGoesWrong) {
  env.start(0, native("fail"), pack(std::string("boo")));
  env.start(1, native("fail_oddly"), pack());
  env.start(2, native("square"), pack(std::string("x")));
  env.start(3, native("sqare"), pack(2));
  env.wait_for(4);
  EXPECT_EQ(env.failure(0).kind, "exception");
  EXPECT_EQ(env.failure(0).message, "boo");
  EXPECT_EQ(env.failure(0).traceback, "std::runtime_error");
  EXPECT_EQ(env.failure(1).kind, "exception");
  EXPECT_EQ(env.failure(2).kind, "bad_arguments");
  EXPECT_EQ(env.failure(2).message, "square: argument 1 has the wrong type");
  EXPECT_EQ(env.failure(3).kind, "unknown_function");
  EXPECT_NE(env.failure(3).message.find("did you mean 'square'?"), std::string::npos);
}

TEST_P(NativeExecutor, EndsATaskAtItsTimeout) {
  env.start(0, native("spin_until_stop"), pack(), std::chrono::milliseconds(50));
  env.wait_for(1);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::timed_out);
  EXPECT_EQ(env.failure(0).kind, "timed_out");
  env.wait_until([&] { return env.stuck == 0; });
  env.start(1, native("square"), pack(3));
  env.wait_for(2);
  EXPECT_EQ(env.of(1).outcome.status, OutcomeStatus::result);
}

TEST_P(NativeExecutor, StopsRunningAndWaitingTasks) {
  for (std::uint64_t i = 0; i < 4; ++i) env.start(i, native("spin_until_stop"), pack());
  env.executor->stop({ExecutorEnv::lease(0), ExecutorEnv::lease(3)});
  env.wait_for(2);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::cancelled);
  EXPECT_EQ(env.of(3).outcome.status, OutcomeStatus::cancelled);
  env.executor->stop({ExecutorEnv::lease(1), ExecutorEnv::lease(2)});
  env.wait_for(4);
  EXPECT_EQ(env.finished.size(), 4U);
}

TEST_P(NativeExecutor, HandsBackWhatHasNotStarted) {
  for (std::uint64_t i = 0; i < 5; ++i) env.start(i, native("sleep_ms"), pack(200));
  env.executor->recall({ExecutorEnv::lease(3), ExecutorEnv::lease(4), ExecutorEnv::lease(9)});
  env.wait_for(3);
  EXPECT_EQ(env.handed_back.size(), 2U);
}

// Two long tasks run, and stand in front of others that were taken together with them, and that
// are on their way back meanwhile.
class BehindLongTasks : public NativeExecutor {
 protected:
  static constexpr std::size_t kShort = 200;
  static constexpr std::size_t kLong = 400;

  BehindLongTasks() {
    expect_short_ones(env);
    std::vector<TaskStart> tasks;
    for (std::uint64_t i = kShort; i < kShort + kLong; ++i) {
      all_.push_back(ExecutorEnv::lease(i));
      tasks.push_back({all_.back(), waiting_, {pack(folder_.path(""), i), 0}});
    }
    env.executor->start(std::move(tasks));
    env.wait_until([&] { return started() == 2; });
  }
  std::ptrdiff_t started() { return lines_of(folder_.path("starts")); }

  const testing::TemporaryFolder folder_;
  std::vector<Lease> all_;
};
INSTANTIATE_TEST_SUITE_P(Every, BehindLongTasks, ::testing::Values("thread", "process"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(BehindLongTasks, ARecallLeavesAloneWhatRuns) {
  for (const Lease& lease : all_) {
    env.executor->recall({lease});
    env.poll();
  }
  env.wait_until([&] { return env.handed_back.size() >= kLong - 2; });
  std::ofstream(folder_.path("go")).put('\n');
  env.wait_for(kShort + 2);
  EXPECT_EQ(env.handed_back.size(), kLong - 2);
  EXPECT_EQ(env.finished.size(), kShort + 2);
  EXPECT_EQ(started(), 2);
  for (std::size_t i = kShort; i < env.finished.size(); ++i) {
    EXPECT_EQ(std::count(env.handed_back.begin(), env.handed_back.end(), env.finished[i].lease), 0);
  }
}

TEST_P(BehindLongTasks, AStopLetsNoOtherStart) {
  for (auto lease = all_.rbegin(); lease != all_.rend(); ++lease) {
    env.executor->stop({*lease});
    env.poll();
  }
  env.wait_for(kShort + kLong);
  EXPECT_EQ(started(), 2);
  for (std::size_t i = kShort; i < env.finished.size(); ++i) {
    EXPECT_EQ(env.finished[i].outcome.status, OutcomeStatus::cancelled);
  }
}

TEST_P(NativeExecutor, WhatIsTakenBackFromBehindALongTaskRunsInItsOrder) {
  ExecutorEnv alone(make_executor(GetParam(), 1));
  expect_short_ones(alone);
  const testing::TemporaryFolder folder;
  std::vector<TaskStart> tasks{{ExecutorEnv::lease(200), waiting_, {pack(folder.path(""), 0), 0}}};
  for (std::uint64_t i = 201; i < 300; ++i) {
    tasks.push_back({ExecutorEnv::lease(i), square_, {pack(i), 0}});
  }
  alone.executor->start(std::move(tasks));
  alone.wait_until([&] { return lines_of(folder.path("starts")) == 1; });
  alone.executor->recall({ExecutorEnv::lease(299)});
  alone.wait_until([&] { return alone.handed_back.size() == 1; });
  std::ofstream(folder.path("go")).put('\n');
  alone.wait_for(299);
  ASSERT_EQ(alone.finished.size(), 299U);
  for (std::uint64_t i = 200; i < 299; ++i) {
    EXPECT_EQ(alone.finished[i].lease, ExecutorEnv::lease(i));
  }
}

TEST_P(NativeExecutor, DoesNotKeepShortTasksBehindALongOne) {
  expect_short_ones(env);
  env.start(200, native("spin_until_stop"), pack());
  for (std::uint64_t i = 201; i < 300; ++i) env.start(i, native("square"), pack(i));
  env.wait_for(299);
  env.executor->stop({ExecutorEnv::lease(200)});
  env.wait_for(300);
  EXPECT_EQ(env.of(200).outcome.status, OutcomeStatus::cancelled);
}

class ProcessOnly : public ::testing::Test {
 protected:
  ExecutorEnv env{make_executor("process", 1)};
};

TEST_F(ProcessOnly, BlamesACrashOnTheTaskThatCrashed) {
  for (std::uint64_t i = 0; i < 50; ++i) env.start(i, native("square"), pack(i));
  env.start(50, native("print_and_crash"), pack(std::string("last words")));
  for (std::uint64_t i = 51; i < 100; ++i) env.start(i, native("square"), pack(i));
  env.wait_for(100);
  EXPECT_EQ(env.failure(50).kind, "crashed");
  EXPECT_NE(env.failure(50).message.find("killed by signal 11 (Segmentation fault)"),
            std::string::npos);
  EXPECT_NE(env.failure(50).traceback.find("last words"), std::string::npos);
  for (const TaskFinish& task : env.finished) {
    if (task.lease.sequence != TaskSequence{50}) {
      EXPECT_EQ(task.outcome.status, OutcomeStatus::result);
    }
  }
}

TEST_F(ProcessOnly, SurvivesEveryWayToEndAProcess) {
  env.start(0, native("abort"), pack());
  env.start(1, native("exit_status"), pack(3));
  env.start(2, native("print_stdout"), pack(std::string("to nobody")));
  env.wait_for(3);
  EXPECT_NE(env.failure(0).message.find("killed by signal 6"), std::string::npos);
  EXPECT_NE(env.failure(1).message.find("exited with status 3"), std::string::npos);
  EXPECT_EQ(env.of(2).outcome.status, OutcomeStatus::result);
}

TEST_F(ProcessOnly, SaysWhyRunnersDoNotStart) {
  ExecutorEnv broken(std::make_unique<ProcessExecutor>(
      ProcessExecutorOptions{1, {{kRunner, "--plugin", "/nowhere/tasks.so"}, {}}, false}));
  broken.start(0, native("square"), pack(1));
  broken.wait_for(1);
  EXPECT_EQ(broken.failure(0).kind, "start_failed");
  EXPECT_NE(broken.failure(0).message.find("cannot load plug-in"), std::string::npos);
}

}  // namespace
}  // namespace muster
