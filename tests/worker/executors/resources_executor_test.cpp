// Limits and accelerators of single tasks, in runners and in commands: real processes.
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tests/support/child.hpp"
#include "tests/worker/executors/executor_env.hpp"
#include "worker/executors/command_executor.hpp"
#include "worker/executors/process_executor.hpp"
#include "worker/system/memory_watch.hpp"

namespace muster {
namespace {

constexpr std::uint64_t kMegabyte = std::uint64_t{1} << 20;
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MUSTER_SANITIZER  // a process has hundreds of megabytes before it does anything
#endif
#endif
#ifdef MUSTER_SANITIZER
constexpr std::uint64_t kLimit = 1000 * kMegabyte;
#else
constexpr std::uint64_t kLimit = 150 * kMegabyte;
#endif
const std::string kGreedy = "grow " + std::to_string(2 * kLimit / kMegabyte);

class Env : public ExecutorEnv {
 public:
  using ExecutorEnv::ExecutorEnv;

  void give(std::uint64_t sequence, const std::string& word, std::uint64_t memory_bytes,
            std::vector<std::uint32_t> devices = {}) {
    JobSpec spec;
    spec.function = {FunctionKind::python, "work", "3.11", {Bytes::copy("body"), 0}};
    give(sequence, std::move(spec), Bytes::copy(word), memory_bytes, std::move(devices));
  }
  void shell(std::uint64_t sequence, const std::string& script, std::uint64_t memory_bytes,
             std::vector<std::uint32_t> devices = {}) {
    CommandTask task;
    task.argv = {"sh", "-c", script};
    JobSpec spec;
    spec.function = {FunctionKind::command, ""};
    give(sequence, std::move(spec), encode_command_task(task), memory_bytes, std::move(devices));
  }
  std::string text(std::uint64_t sequence) {
    const Outcome& outcome = of(sequence).outcome;
    EXPECT_EQ(outcome.status, OutcomeStatus::result);
    return std::string(outcome.body.bytes.text());
  }
  std::string printed(std::uint64_t sequence) {
    const Outcome& outcome = of(sequence).outcome;
    EXPECT_EQ(outcome.status, OutcomeStatus::result);
    const auto result = decode_command_result(outcome.body.bytes);
    return result ? std::string(result->output.text()) : "";
  }

 private:
  void give(std::uint64_t sequence, JobSpec spec, Bytes payload, std::uint64_t memory_bytes,
            std::vector<std::uint32_t> devices) {
    spec.resources.memory_bytes = memory_bytes;
    spec.resources.gpus = static_cast<std::uint32_t>(devices.size());
    std::vector<TaskStart> tasks;
    tasks.push_back({lease(sequence),
                     std::make_shared<const JobSpec>(std::move(spec)),
                     {std::move(payload), 0},
                     std::move(devices)});
    executor->start(std::move(tasks));
  }
};

std::unique_ptr<Executor> runners(std::uint32_t slots, const std::vector<std::string>& gpus = {},
                                  const MemoryRule& memory = {}) {
  return std::make_unique<ProcessExecutor>(
      ProcessExecutorOptions{slots, {{MUSTER_BIN_DIR "/test_runner"}, {}}, true, gpus, memory});
}

std::unique_ptr<Executor> commands(const std::vector<std::string>& gpus = {}) {
  CommandExecutorOptions options;
  options.slots = 2;
  options.node = "node";
  options.gpus = gpus;
  return std::make_unique<CommandExecutor>(options);
}

TEST(MemoryLimit, AGreedyTaskDiesAloneAndSaysWhy) {
  Env env(runners(2));
  testing::TemporaryFolder folder;
  env.give(0, "wait_for " + folder.path("go"), kLimit);
  env.give(1, kGreedy, kLimit);
  env.wait_for(1);
  const Failure failure = env.failure(1);
  EXPECT_EQ(failure.kind, "out_of_memory");
  EXPECT_NE(failure.message.find("its limit is " + std::to_string(kLimit / kMegabyte) + " MB"),
            std::string::npos)
      << failure.message;
  std::ofstream(folder.path("go")).put('\n');
  env.wait_for(2);
  EXPECT_EQ(env.text(0), "ended") << "its neighbour lives";
  env.give(2, "grow 1", 0);
  env.give(3, "echo again", kLimit);
  env.wait_until([&] { return env.finished.size() >= 3; });
  EXPECT_EQ(env.text(3), "again");
}

TEST(MemoryLimit, TasksWithoutALimitMayTakeWhatTheyNeed) {
  Env env(runners(1));
  env.give(0, kGreedy, 0);
  env.wait_until([&] { return memory_of_tree(::getpid()) > kLimit; });
  EXPECT_TRUE(env.finished.empty());
}

TEST(MemoryLimit, TheSlotsShareIsTheLimitWhenTheWorkerSaysSo) {
  Env env(runners(1, {}, {kLimit, 1, 1}));
  env.give(0, kGreedy, 0);
  env.wait_for(1);
  EXPECT_EQ(env.failure(0).kind, "out_of_memory");
}

TEST(MemoryLimit, AGreedyCommandAndItsChildrenDie) {
  Env env(commands());
  // The shell's child is the one that takes the memory.
  env.shell(0, "head -c 400M /dev/zero | tail -c 400M | wc -c; echo never", 100 * kMegabyte);
  env.shell(1, "echo fine", 100 * kMegabyte);
  env.wait_for(2);
  EXPECT_EQ(env.failure(0).kind, "out_of_memory");
  EXPECT_NE(env.failure(0).message.find("its limit is 100 MB"), std::string::npos);
  EXPECT_EQ(env.printed(1), "fine\n");
}

TEST(Gpus, ARunnerSeesThoseOfItsTaskAndNoOthers) {
  Env env(runners(2, {"0", "GPU-7"}));
  const std::string ask = "environment CUDA_VISIBLE_DEVICES";
  env.give(0, ask, 0);
  env.give(1, ask, 0, {1});
  env.wait_for(2);
  EXPECT_EQ(env.text(0), "");
  EXPECT_EQ(env.text(1), "GPU-7");
  env.give(2, ask, 0, {0, 1});
  env.give(3, ask, 0);
  env.wait_for(4);
  EXPECT_EQ(env.text(2), "0,GPU-7");
  EXPECT_EQ(env.text(3), "");
}

TEST(Gpus, ManyTasksOfBothSortsAllRun) {
  Env env(runners(3, {"0", "1"}));
  const std::string ask = "environment CUDA_VISIBLE_DEVICES";
  for (std::uint64_t i = 0; i < 30; ++i) env.give(i, ask, 0);
  for (std::uint32_t i = 0; i < 2; ++i) env.give(30 + i, ask, 0, {i});
  for (std::uint64_t i = 32; i < 60; ++i) env.give(i, ask, 0);
  env.wait_for(60);
  for (std::uint64_t i = 0; i < 60; ++i) {
    EXPECT_EQ(env.text(i), i == 30 ? "0" : i == 31 ? "1" : "");
  }
}

TEST(Gpus, ARunnerThatHasThemIsKept) {
  Env env(runners(2, {"0"}));
  env.give(0, "pid", 0, {0});
  env.wait_for(1);
  env.give(1, "pid", 0, {0});
  env.wait_for(2);
  EXPECT_EQ(env.text(0), env.text(1));
}

TEST(Gpus, ACommandFindsThemInItsEnvironment) {
  Env env(commands({"4", "5"}));
  env.shell(0, "echo \"<$CUDA_VISIBLE_DEVICES>\"", 0, {1});
  env.shell(1, "echo \"<$CUDA_VISIBLE_DEVICES>\"", 0);
  env.wait_for(2);
  EXPECT_EQ(env.printed(0), "<5>\n");
  EXPECT_EQ(env.printed(1), "<>\n");
}

}  // namespace
}  // namespace muster
