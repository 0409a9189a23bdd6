// The executors whose tasks run in runner processes, with a runner made for these tests: what both
// promise, what each slot of its own can, and what threads of one process cannot.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <string>

#include "tests/support/child.hpp"
#include "tests/worker/executors/executor_env.hpp"
#include "worker/executors/process_executor.hpp"
#include "worker/executors/shared_runner_executor.hpp"

namespace muster {
namespace {

constexpr std::chrono::milliseconds kShort{50};

std::unique_ptr<Executor> make_executor(const std::string& kind, std::uint32_t slots) {
  const bool shared = kind == "shared";
  const RunnerCommand command{
      {MUSTER_BIN_DIR "/test_runner", "--threads", std::to_string(shared ? slots : 1)},
      {{"MUSTER_NODE", "node7"}}};
  if (shared) {
    return std::make_unique<SharedRunnerExecutor>(SharedRunnerExecutorOptions{slots, command});
  }
  return std::make_unique<ProcessExecutor>(ProcessExecutorOptions{slots, command, true});
}

// Jobs of the test's runner, whose payloads are its words.
class RunnerEnv : public ExecutorEnv {
 public:
  explicit RunnerEnv(const std::string& kind, std::uint32_t slots)
      : ExecutorEnv(make_executor(kind, slots)) {}

  static std::shared_ptr<const JobSpec> job(const std::string& body = "",
                                            std::chrono::milliseconds timeout = {}) {
    JobSpec spec;
    spec.function = {FunctionKind::python, "work", "3.11", {Bytes::copy(body), 0}};
    spec.timeout = timeout;
    spec.forward_output = true;
    return std::make_shared<const JobSpec>(std::move(spec));
  }
  static Lease lease_of(std::uint32_t job, std::uint64_t sequence) {
    return {{1, 1}, JobId{job}, TaskSequence{sequence}, Attempt{0}};
  }
  void give(const std::shared_ptr<const JobSpec>& spec, std::uint64_t sequence,
            const std::string& word, std::uint32_t job_number = 1) {
    std::vector<TaskStart> tasks;
    tasks.push_back({lease_of(job_number, sequence), spec, {Bytes::copy(word), 0}});
    executor->start(std::move(tasks));
  }
  // The result of a task that is run alone.
  std::string ask(const std::shared_ptr<const JobSpec>& spec, std::uint64_t sequence,
                  const std::string& word, std::uint32_t job_number = 1) {
    give(spec, sequence, word, job_number);
    const std::size_t before = finished.size();
    wait_for(before + 1);
    if (finished.empty()) return "";
    EXPECT_EQ(finished.back().outcome.status, OutcomeStatus::result);
    return std::string(finished.back().outcome.body.bytes.text());
  }
  std::vector<std::string> texts(OutputKind kind, std::uint64_t sequence) const {
    std::vector<std::string> found;
    for (const message::WorkerOutput& output : outputs) {
      for (const message::OutputLine& line : output.lines) {
        if (line.kind == kind && line.sequence == TaskSequence{sequence}) {
          found.push_back(line.text);
        }
      }
    }
    return found;
  }
  std::size_t line_count() const {
    std::size_t count = 0;
    for (const message::WorkerOutput& output : outputs) count += output.lines.size();
    return count;
  }
  std::uint64_t dropped() const {
    std::uint64_t count = 0;
    for (const message::WorkerOutput& output : outputs) count += output.dropped;
    return count;
  }
};

using Texts = std::vector<std::string>;

class RunnerExecutor : public ::testing::TestWithParam<std::string> {
 protected:
  RunnerEnv env{GetParam(), 2};
};
INSTANTIATE_TEST_SUITE_P(Every, RunnerExecutor, ::testing::Values("process", "shared"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(RunnerExecutor, RunsTasksOfSeveralJobsWithTheirBodies) {
  const auto first = RunnerEnv::job("first");
  const auto second = RunnerEnv::job("second");
  EXPECT_EQ(env.ask(first, 0, "body", 1), "first");
  EXPECT_EQ(env.ask(second, 0, "body", 2), "second");
  EXPECT_EQ(env.ask(first, 1, "echo hello", 1), "hello");
  EXPECT_EQ(env.ask(first, 2, "environment MUSTER_NODE", 1), "node7");
  EXPECT_GT(env.finished.back().busy, Duration::zero());
}

TEST_P(RunnerExecutor, UnpacksBodiesAndPayloads) {
  JobSpec spec = *RunnerEnv::job();
  const std::string text(100'000, 'z');
  spec.function.body = pack_payload(Bytes::copy(text), Packing::when_smaller);
  ASSERT_NE(spec.function.body.unpacked_bytes, 0U);
  const auto job = std::make_shared<const JobSpec>(spec);
  EXPECT_EQ(env.ask(job, 0, "body"), text);
  std::vector<TaskStart> tasks;
  tasks.push_back(
      {RunnerEnv::lease(1), job, pack_payload(Bytes::copy("echo " + text), Packing::when_smaller)});
  tasks.push_back({RunnerEnv::lease(2), job, {Bytes::copy("damaged"), 70}});
  env.executor->start(std::move(tasks));
  env.wait_for(3);
  EXPECT_EQ(env.of(1).outcome.body.bytes.text(), text);
  EXPECT_EQ(env.failure(2).kind, "bad_arguments");
}

TEST_P(RunnerExecutor, ReportsWhatGoesWrong) {
  const auto job = RunnerEnv::job();
  env.give(job, 0, "fail no luck");
  env.give(job, 1, "big 2000000");
  env.wait_for(2);
  EXPECT_EQ(env.failure(0).kind, "exception");
  EXPECT_EQ(env.failure(0).message, "no luck");
  EXPECT_EQ(env.failure(0).traceback, "the traceback");
  EXPECT_EQ(env.failure(0).extra.text(), "the extra");
  EXPECT_EQ(env.failure(1).kind, "result_too_large");
}

TEST_P(RunnerExecutor, NamesTheSignalOfACrashAndTheLastWords) {
  env.give(RunnerEnv::job(), 0, "crash last words");
  env.wait_for(1);
  EXPECT_EQ(env.failure(0).kind, "crashed");
  EXPECT_NE(env.failure(0).message.find("killed by signal 11 (Segmentation fault)"),
            std::string::npos)
      << env.failure(0).message;
  EXPECT_NE(env.failure(0).traceback.find("last words"), std::string::npos);
  EXPECT_EQ(env.ask(RunnerEnv::job(), 1, "echo again"), "again");
}

TEST_P(RunnerExecutor, SurvivesEveryWayToEndARunner) {
  env.give(RunnerEnv::job(), 0, "exit 3");
  env.wait_for(1);
  EXPECT_NE(env.failure(0).message.find("exited with status 3"), std::string::npos);
  EXPECT_EQ(env.ask(RunnerEnv::job(), 1, "echo again"), "again");
}

TEST_P(RunnerExecutor, NamesTheSignalWhenItIsKilledFromOutside) {
  testing::TemporaryFolder folder;
  const auto job = RunnerEnv::job();
  env.give(job, 0, "hold " + folder.path("pid"));
  std::string pid;
  env.wait_until(
      [&] { return std::getline(std::ifstream(folder.path("pid")), pid) && !pid.empty(); });
  ::kill(std::stoi(pid), SIGKILL);
  env.wait_for(1);
  EXPECT_EQ(env.failure(0).kind, "crashed");
  EXPECT_NE(env.failure(0).message.find("killed by signal 9 (Killed)"), std::string::npos);
  EXPECT_EQ(env.ask(job, 1, "echo again"), "again");
}

TEST_P(RunnerExecutor, EndsATaskAtItsTimeout) {
  env.give(RunnerEnv::job("", kShort), 0, "wait");
  env.wait_for(1);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::timed_out);
  EXPECT_EQ(env.failure(0).kind, "timed_out");
  EXPECT_GE(env.of(0).busy, kShort);
  env.wait_until([&] { return env.stuck == 0; });
  EXPECT_EQ(env.ask(RunnerEnv::job(), 1, "echo again"), "again");
}

TEST_P(RunnerExecutor, StopsRunningAndWaitingTasks) {
  const auto job = RunnerEnv::job();
  for (std::uint64_t i = 0; i < 4; ++i) env.give(job, i, "wait");
  env.executor->stop({RunnerEnv::lease(0), RunnerEnv::lease(3)});
  env.wait_for(2);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::cancelled);
  EXPECT_EQ(env.of(3).outcome.status, OutcomeStatus::cancelled);
  env.executor->stop({RunnerEnv::lease(1), RunnerEnv::lease(2)});
  env.wait_for(4);
  env.wait_until([&] { return env.stuck == 0; });
  EXPECT_EQ(env.finished.size(), 4U);
}

TEST_P(RunnerExecutor, HandsBackWhatHasNotStarted) {
  const auto job = RunnerEnv::job();
  for (std::uint64_t i = 0; i < 5; ++i) env.give(job, i, "wait");
  env.executor->recall({RunnerEnv::lease(2), RunnerEnv::lease(4), RunnerEnv::lease(9)});
  env.wait_until([&] { return env.handed_back.size() == 2; });
  EXPECT_TRUE(env.finished.empty());
}

TEST_P(RunnerExecutor, ForwardsWhatTasksPrintAndSay) {
  const auto job = RunnerEnv::job();
  env.ask(job, 0, "print to output");
  env.ask(job, 1, "complain to error");
  env.ask(job, 2, "say to the log");
  env.ask(job, 3, "print_unended half a line");
  EXPECT_EQ(env.line_count(), 4U) << "before its outcome";
  env.ask(job, 4, "echo silent");
  EXPECT_EQ(env.texts(OutputKind::output, 0), Texts{"to output"});
  EXPECT_EQ(env.texts(OutputKind::error, 1), Texts{"to error"});
  EXPECT_EQ(env.texts(OutputKind::log, 2), Texts{"to the log"});
  EXPECT_EQ(env.texts(OutputKind::output, 3), Texts{"half a line"});
  EXPECT_EQ(env.line_count(), 4U);
}

TEST_P(RunnerExecutor, KeepsToItselfWhatIsNotToBeForwarded) {
  JobSpec spec = *RunnerEnv::job();
  spec.forward_output = false;
  const auto job = std::make_shared<const JobSpec>(spec);
  env.ask(job, 0, "print to nobody");
  env.ask(job, 1, "say to nobody");
  env.ask(RunnerEnv::job(), 2, "print to the producer", 2);
  EXPECT_EQ(env.line_count(), 1U);
}

TEST_P(RunnerExecutor, SendsLinesOfALongTaskWhileItRuns) {
  const auto job = RunnerEnv::job();
  env.give(job, 0, "say_and_wait on the way");
  env.wait_until([&] { return env.line_count() == 1; });
  EXPECT_TRUE(env.finished.empty());
  env.executor->stop({RunnerEnv::lease(0)});
  env.wait_for(1);
}

TEST_P(RunnerExecutor, LeavesLinesOutThatAreTooMany) {
  const auto job = RunnerEnv::job();
  env.ask(job, 0, "flood 20000");
  env.wait_until([&] { return env.line_count() + env.dropped() == 20'000; });
  EXPECT_GE(env.line_count(), 5000U);
  EXPECT_GT(env.dropped(), 0U);
  const std::size_t said = env.line_count();
  const std::uint64_t dropped = env.dropped();
  env.ask(job, 1, "print_many 20000");
  env.wait_until([&] { return env.line_count() + env.dropped() == said + dropped + 20'000; });
  EXPECT_GT(env.dropped(), dropped);
  for (const message::WorkerOutput& output : env.outputs) {
    EXPECT_LE(output.lines.size(), limits::kMaxOutputLines);
  }
}

TEST_P(RunnerExecutor, SaysWhyRunnersDoNotStart) {
  const RunnerCommand command{{MUSTER_BIN_DIR "/test_runner", "--fail-start", "muster"}, {}};
  std::unique_ptr<Executor> executor;
  if (GetParam() == "process") {
    executor = std::make_unique<ProcessExecutor>(ProcessExecutorOptions{1, command, true});
  } else {
    executor = std::make_unique<SharedRunnerExecutor>(SharedRunnerExecutorOptions{1, command});
  }
  ExecutorEnv broken(std::move(executor));
  broken.start(0, {FunctionKind::python, "work", "3.11"}, Bytes::copy("echo"));
  broken.wait_for(1);
  EXPECT_EQ(broken.failure(0).kind, "start_failed");
  EXPECT_NE(broken.failure(0).message.find("no module named muster"), std::string::npos);
}

// --- A process for each slot --------------------------------------------------------------------

TEST(RunnerProcesses, GetTheBodyOfAJobOnce) {
  RunnerEnv env("process", 1);
  const auto first = RunnerEnv::job("first");
  const auto second = RunnerEnv::job("second");
  const std::string key = env.ask(first, 0, "key", 1);
  const std::string other = env.ask(second, 0, "key", 2);
  EXPECT_NE(key, other);
  EXPECT_EQ(env.ask(first, 1, "key", 1), key);
  EXPECT_EQ(env.ask(second, 1, "key", 2), other);
}

TEST(RunnerProcesses, ForgetJobs) {
  RunnerEnv env("process", 1);
  const auto first = RunnerEnv::job("first");
  const auto second = RunnerEnv::job("second");
  const std::string key = env.ask(first, 0, "key", 1);
  env.ask(second, 0, "key", 2);
  env.executor->forget({{{1, 1}, JobId{1}}, {{1, 1}, JobId{7}}});
  EXPECT_EQ(env.ask(second, 1, "forgotten 1", 2), key + " ");
  EXPECT_NE(env.ask(first, 1, "key", 1), key) << "declared again";
  EXPECT_EQ(env.ask(first, 2, "body", 1), "first");
}

TEST(RunnerProcesses, StartWithTheFirstTaskUnlessTheyAreWarm) {
  ExecutorEnv env(std::make_unique<ProcessExecutor>(
      ProcessExecutorOptions{1, {{MUSTER_BIN_DIR "/test_runner"}, {}}, false}));
  const auto children = [] {
    const std::string id = std::to_string(::getpid());
    std::ifstream file("/proc/" + id + "/task/" + id + "/children");
    std::string text;
    std::getline(file, text);
    return text;
  };
  env.poll();
  EXPECT_EQ(children(), "");
  env.start(0, {FunctionKind::python, "work", "3.11"}, Bytes::copy("echo"));
  env.wait_for(1);
  EXPECT_NE(children(), "");
}

TEST(RunnerProcesses, BlameACrashOnTheTaskThatCrashed) {
  RunnerEnv env("process", 1);
  const auto job = RunnerEnv::job();
  for (std::uint64_t i = 0; i < 50; ++i) env.give(job, i, "echo");
  env.give(job, 50, "crash here");
  for (std::uint64_t i = 51; i < 100; ++i) env.give(job, i, "echo");
  env.wait_for(100);
  for (const TaskFinish& task : env.finished) {
    const bool crashed = task.lease.sequence == TaskSequence{50};
    EXPECT_EQ(task.outcome.status, crashed ? OutcomeStatus::error : OutcomeStatus::result);
  }
}

// --- Threads of one process ---------------------------------------------------------------------

TEST(SharedRunner, RunsAsManyTasksAtOnceAsItHasThreads) {
  RunnerEnv env("shared", 3);
  testing::TemporaryFolder folder;
  const auto job = RunnerEnv::job();
  for (std::uint64_t i = 0; i < 3; ++i) {
    env.give(job, i, "hold " + folder.path(std::to_string(i)));
  }
  env.give(job, 3, "pid");
  env.wait_until([&] {
    for (const char* name : {"0", "1", "2"}) {
      if (!std::filesystem::exists(folder.path(name))) return false;
    }
    return true;
  });
  EXPECT_TRUE(env.finished.empty()) << "the fourth waits";
  env.executor->stop({RunnerEnv::lease(1)});
  env.wait_for(2);
  EXPECT_EQ(env.of(3).outcome.status, OutcomeStatus::result);
}

TEST(SharedRunner, SaysThatTasksSharedTheProcessThatCrashed) {
  RunnerEnv env("shared", 3);
  testing::TemporaryFolder folder;
  const auto job = RunnerEnv::job();
  env.give(job, 0, "hold " + folder.path("0"));
  env.give(job, 1, "hold " + folder.path("1"));
  env.wait_until([&] {
    return std::filesystem::exists(folder.path("0")) && std::filesystem::exists(folder.path("1"));
  });
  env.give(job, 2, "crash oops");
  env.wait_for(3);
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(env.failure(i).kind, "crashed");
    EXPECT_NE(env.failure(i).message.find("signal 11"), std::string::npos);
    EXPECT_NE(env.failure(i).message.find("3 tasks shared the process"), std::string::npos);
    EXPECT_NE(env.failure(i).traceback.find("oops"), std::string::npos);
  }
  EXPECT_EQ(env.ask(job, 3, "echo again"), "again");
}

TEST(SharedRunner, KeepsTheSlotOfATaskThatDoesNotEnd) {
  RunnerEnv env("shared", 2);
  testing::TemporaryFolder folder;
  env.give(RunnerEnv::job("", kShort), 0, "block " + folder.path("go"));
  env.wait_for(1);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::timed_out);
  EXPECT_EQ(env.stuck, 1U);
  const auto job = RunnerEnv::job();
  EXPECT_EQ(env.ask(job, 1, "echo beside"), "beside");
  env.give(job, 2, "wait");
  env.give(job, 3, "echo later");
  env.poll();
  EXPECT_EQ(env.finished.size(), 2U);
  std::ofstream(folder.path("go")).put('\n');
  env.wait_for(3);
  EXPECT_EQ(env.of(3).outcome.body.bytes.text(), "later");
  EXPECT_EQ(env.stuck, 0U);
  EXPECT_EQ(env.finished.size(), 3U) << "one outcome each";
}

}  // namespace
}  // namespace muster
