// Tasks whose arguments, functions and results are in blobs: on threads and in real runners.
#include <gtest/gtest.h>

#include <muster/pack.hpp>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "tests/worker/blobs/blob_rig.hpp"
#include "tests/worker/executors/executor_env.hpp"
#include "worker/executors/process_executor.hpp"
#include "worker/executors/shared_runner_executor.hpp"
#include "worker/executors/thread_executor.hpp"
#include "worker/runner/plugin.hpp"
#include "worker/system/memory_watch.hpp"

namespace muster {
namespace {

const std::string kRunner = MUSTER_BIN_DIR "/muster-runner";
const std::string kPlugin = MUSTER_PLUGIN_DIR "/test_tasks.so";
const std::string kShipped = MUSTER_PLUGIN_DIR "/shipped/shipped_";

const FunctionRegistry& test_functions() {
  static const FunctionRegistry& functions = *[] {
    auto made = std::make_unique<FunctionRegistry>();
    made->load(kPlugin);
    return made.release();  // as in native_executor_test.cpp
  }();
  return functions;
}

// A handle as a producer has it: only its name matters.
class NamedOnly final : public detail::BlobFile {
 public:
  explicit NamedOnly(const BlobName& name) : BlobFile(name.id.high, name.id.low, name.size_bytes) {}
  Opened open() const override { throw BlobError("a name only"); }
};
Blob handle(const BlobName& name) { return Blob(std::make_shared<NamedOnly>(name)); }

template <typename... Arguments>
Payload pack(const Arguments&... arguments) {
  BytesArena arena;
  std::vector<BlobName> names;
  for (const Blob& blob : blobs_of(arguments...)) {
    names.push_back({{blob.file()->high, blob.file()->low}, blob.size()});
  }
  const Payload body{pack_arguments(arena, arguments...), 0};
  return names.empty() ? body : with_blobs(names, body);
}

std::string bytes_of(const std::vector<double>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(double)};
}

class NativeBlobs : public ::testing::TestWithParam<std::string> {
 protected:
  NativeBlobs() : env(make()) {}
  static std::unique_ptr<Executor> make() {
    if (GetParam() == "thread") return std::make_unique<ThreadExecutor>(test_functions(), 2);
    return std::make_unique<ProcessExecutor>(
        ProcessExecutorOptions{2, {{kRunner, "--plugin", kPlugin}, {}}, true});
  }
  void start(std::uint64_t sequence, const std::string& name, Payload payload) {
    env.start(sequence, {FunctionKind::native, name}, std::move(payload));
  }
  // A task of a job that brings these libraries.
  void start_shipped(std::uint64_t sequence, const std::string& name,
                     const std::vector<std::string>& libraries, Payload payload = pack()) {
    std::vector<BlobName> blobs;
    std::vector<std::string> names;
    for (const std::string& library : libraries) {
      blobs.push_back(rig.put_file(kShipped + library + ".so"));
      names.push_back("lib" + library + ".so");
    }
    BytesArena arena;
    const Payload body = with_blobs(blobs, {pack_value(arena, names), 0});
    env.start(sequence, {FunctionKind::native, name, "", body}, std::move(payload));
    env.wait_for(env.finished.size() + 1);
  }
  template <typename Value>
  Value result(std::uint64_t sequence) {
    const Outcome& outcome = env.of(sequence).outcome;
    EXPECT_EQ(outcome.status, OutcomeStatus::result) << decode_failure(outcome.body.bytes).message;
    std::vector<Blob> blobs;
    for (std::size_t i = 0; i < outcome.body.blobs; ++i) {
      blobs.push_back(handle(blob_at(outcome.body, i)));
    }
    return unpack_value<Value>(body_of(outcome.body).bytes, blobs);
  }

  BlobRig rig;
  ExecutorEnv env;
};
INSTANTIATE_TEST_SUITE_P(Every, NativeBlobs, ::testing::Values("thread", "process"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(NativeBlobs, AreArguments) {
  std::vector<double> numbers(100'000);
  std::iota(numbers.begin(), numbers.end(), 1.0);
  const BlobName large = rig.put(bytes_of(numbers));
  const BlobName small = rig.put(bytes_of({1.5, 2.5}), "disk");
  start(0, "sum_of", pack(handle(large)));
  start(1, "sum_of", pack(handle(small)));
  start(2, "sizes_of",
        pack(std::vector{handle(small), handle(large), handle(small)},
             std::map<std::string, Blob>{{"name", handle(large)}}));
  env.wait_for(3);
  EXPECT_EQ(result<double>(0), 100'000.0 * 100'001 / 2);
  EXPECT_EQ(result<double>(1), 4.0);
  EXPECT_EQ(result<std::vector<std::uint64_t>>(2),
            (std::vector<std::uint64_t>{16, 800'000, 16, 800'000}));
}

TEST_P(NativeBlobs, AreResults) {
  const BlobName numbers = rig.put(bytes_of({1, 2, 3}));
  start(0, "doubled", pack(handle(numbers)));
  env.wait_for(1);
  const auto [count, blob] = result<std::tuple<std::size_t, Blob>>(0);
  EXPECT_EQ(count, 3U);
  EXPECT_EQ(blob.size(), 24U);
  EXPECT_EQ(rig.take(env.of(0).outcome.body), std::vector<std::string>{bytes_of({2, 4, 6})});
}

TEST_P(NativeBlobs, OfTheArgumentsAreReturnedAsCopies) {
  const BlobName name = rig.put("to and fro");
  start(0, "same", pack(handle(name)));
  start(1, "raw_blobs", with_blobs(std::vector{name, name}, {Bytes::copy("raw"), 0}));
  env.wait_for(2);
  const auto both = result<std::vector<Blob>>(0);
  ASSERT_EQ(both.size(), 2U);
  EXPECT_TRUE(both[0].is_same_as(both[1]));
  EXPECT_FALSE(both[0].is_same_as(handle(name)));
  EXPECT_EQ(rig.take(env.of(0).outcome.body), std::vector<std::string>{"to and fro"});
  EXPECT_EQ(rig.take(env.of(1).outcome.body), std::vector<std::string>{"to and fro"});
  EXPECT_EQ(body_of(env.of(1).outcome.body).bytes.text(), "raw");
}

TEST_P(NativeBlobs, CarryLargeResultsAndArguments) {
  const std::string large(3'000'000, 'x');
  start(0, "big_result", pack(large.size()));
  env.wait_for(1);
  const Payload& body = env.of(0).outcome.body;
  EXPECT_TRUE(is_one_blob(body));
  const std::vector<std::string> contents = rig.take(body);
  ASSERT_EQ(contents.size(), 1U);
  EXPECT_EQ(unpack_value<std::string>(Bytes::copy(contents[0])), large);

  start(1, "echo", body);
  env.wait_for(2);
  EXPECT_EQ(rig.take(env.of(1).outcome.body), contents);
}

TEST_P(NativeBlobs, ThatAreGoneFailTheirTaskAlone) {
  start(0, "sum_of", pack(handle({{5, 6}, 16})));
  start(1, "square", pack(3));
  start(2, "wrong_view", pack(handle(rig.put("12345"))));
  start(3, "sum_of", body_of(pack(handle({{5, 6}, 16}))));
  env.wait_for(4);
  EXPECT_EQ(env.failure(0).kind, "blob_lost");
  EXPECT_NE(env.failure(0).message.find("is not on this node any more"), std::string::npos);
  EXPECT_EQ(result<int>(1), 9);
  EXPECT_NE(env.failure(2).message.find("5 bytes"), std::string::npos);
  EXPECT_NE(env.failure(3).message.find("did not come along"), std::string::npos);
  EXPECT_TRUE(rig.incoming().empty());
}

TEST_P(NativeBlobs, MayBeTheLibrariesOfAJob) {
  start(0, "square", pack(3));
  env.wait_for(1);
  start_shipped(1, "which", {"first"});
  start_shipped(2, "which", {"second"});
  start_shipped(3, "square", {"first"}, pack(3));
  start_shipped(4, "add", {"first"}, pack(3, 4));
  start_shipped(5, "which", {"first"});
  EXPECT_EQ(result<int>(0), 9);
  EXPECT_EQ(result<std::string>(1), "first 1");
  EXPECT_EQ(result<std::string>(2).substr(0, 6), "second");
  EXPECT_EQ(result<int>(3), 1003) << "the job's own function goes first";
  EXPECT_EQ(result<int>(4), 7) << "the worker's functions are there, too";
  EXPECT_EQ(result<std::string>(5).substr(0, 5), "first");
}

TEST_P(NativeBlobs, MayBeLibrariesThatNeedEachOther) {
  start_shipped(0, "which", {"needy", "helper"});
  EXPECT_EQ(result<std::string>(0).substr(0, 6), "needs ");
}

TEST_P(NativeBlobs, OfLibrariesThatCannotBeUsedSayWhy) {
  start_shipped(0, "which", {"unresolved"});
  start_shipped(1, "which", {"helper"});
  start_shipped(2, "whihc", {"first"});
  const BlobName text = rig.put("no library");
  BytesArena arena;
  const Payload body =
      with_blobs(std::vector{text}, {pack_value(arena, std::vector<std::string>{"text.so"}), 0});
  env.start(3, {FunctionKind::native, "which", "", body}, pack());
  env.start(4, {FunctionKind::native, "which", "", with_blobs(std::vector{text}, {})}, pack());
  env.wait_for(5);
  EXPECT_EQ(env.failure(0).kind, "bad_library");
  EXPECT_NE(env.failure(0).message.find("shipped_nowhere_defined"), std::string::npos)
      << env.failure(0).message;
  EXPECT_NE(env.failure(0).message.find("libunresolved.so"), std::string::npos);
  EXPECT_NE(env.failure(1).message.find("muster_plugin"), std::string::npos);
  EXPECT_EQ(env.failure(2).kind, "unknown_function");
  EXPECT_NE(env.failure(2).message.find("did you mean 'which'"), std::string::npos);
  EXPECT_NE(env.failure(3).message.find("text.so"), std::string::npos) << env.failure(3).message;
  EXPECT_NE(env.failure(4).kind, "crashed");
}

// --- What a runner in another language sees -----------------------------------------------------

class RunnerBlobs : public ::testing::TestWithParam<std::string> {
 protected:
  RunnerBlobs() : env(make()) {}
  static std::unique_ptr<Executor> make() {
    const RunnerCommand command{{MUSTER_BIN_DIR "/test_runner", "--max-result", "10000000"}, {}};
    if (GetParam() == "shared") {
      return std::make_unique<SharedRunnerExecutor>(SharedRunnerExecutorOptions{1, command});
    }
    return std::make_unique<ProcessExecutor>(ProcessExecutorOptions{1, command});
  }
  void start(std::uint64_t sequence, const std::string& words,
             const std::vector<BlobName>& blobs = {}, const std::vector<BlobName>& job = {}) {
    const Payload payload{Bytes::copy(words), 0};
    const Payload body{Bytes::copy("body"), 0};
    env.start(sequence,
              {FunctionKind::python, "work", "3.11", job.empty() ? body : with_blobs(job, body)},
              blobs.empty() ? payload : with_blobs(blobs, payload));
  }
  std::string text(std::uint64_t sequence) {
    const Outcome& outcome = env.of(sequence).outcome;
    EXPECT_EQ(outcome.status, OutcomeStatus::result);
    return std::string(body_of(outcome.body).bytes.text());
  }

  BlobRig rig;
  ExecutorEnv env;
};
INSTANTIATE_TEST_SUITE_P(Every, RunnerBlobs, ::testing::Values("process", "shared"),
                         [](const auto& parameter) { return parameter.param; });

TEST_P(RunnerBlobs, BelongToTasksAndToJobs) {
  const BlobName one = rig.put("one ");
  const BlobName two = rig.put("two ");
  start(0, "blobs", {two, one, two}, {one});
  start(1, "blobs");
  env.wait_for(2);
  EXPECT_EQ(text(0), "one two one two ");
  EXPECT_EQ(text(1), "");
}

TEST_P(RunnerBlobs, AreMadeForResults) {
  start(0, "make a few words");
  start(1, "give_back body", {rig.put("what came")});
  env.wait_for(2);
  EXPECT_EQ(text(0), "keeps ");
  EXPECT_EQ(rig.take(env.of(0).outcome.body), std::vector<std::string>{"a few words"});
  EXPECT_EQ(text(1), "body");
  EXPECT_EQ(rig.take(env.of(1).outcome.body), std::vector<std::string>{"what came"});
  const std::ofstream shares(rig.folder.path("shares"));
  start(2, "make more");
  env.wait_for(3);
  EXPECT_EQ(text(2), "keeps shares");
}

TEST_P(RunnerBlobs, OfAFailedTaskAreRemoved) {
  start(0, "make_and_fail no");
  env.wait_for(1);
  EXPECT_EQ(env.failure(0).message, "no");
  EXPECT_TRUE(rig.incoming().empty());
}

TEST_P(RunnerBlobs, OfAProcessThatDiesAreGoneWithIt) {
  start(0, "make_and_crash here it ends");
  env.wait_for(1);
  EXPECT_EQ(env.failure(0).kind, "crashed");
  EXPECT_TRUE(rig.incoming().empty());
}

TEST_P(RunnerBlobs, CarryLargeBodiesBothWays) {
  const std::string large(5'000'000, 'b');
  const BlobName argument = rig.put("size " + large);
  const BlobName function = rig.put(large);
  start(0, "big 5000000");
  env.start(1, {FunctionKind::python, "work", "3.11", BlobRig::payload({function})},
            BlobRig::payload({argument}));
  env.start(2, {FunctionKind::python, "work", "3.11", BlobRig::payload({function})},
            Payload{Bytes::copy("body"), 0});
  start(3, "big 10000001");
  env.wait_for(4);
  EXPECT_TRUE(is_one_blob(env.of(0).outcome.body));
  EXPECT_EQ(rig.take(env.of(0).outcome.body), std::vector<std::string>{large});
  EXPECT_EQ(text(1), "5000005");
  EXPECT_EQ(rig.take(env.of(2).outcome.body), std::vector<std::string>{large});
  EXPECT_EQ(env.failure(3).kind, "result_too_large");
}

TEST_P(RunnerBlobs, ThatAreGoneFailTheirTaskOrJob) {
  start(0, "blobs", {{{8, 8}, 8}});
  start(1, "blobs", {}, {{{9, 9}, 9}});
  start(2, "echo on");
  env.wait_for(3);
  EXPECT_EQ(env.failure(0).kind, "blob_lost");
  EXPECT_EQ(env.failure(1).kind, "blob_lost");
  EXPECT_EQ(text(2), "on");
}

TEST(RunnerBlobsOnThreads, OfATaskThatWasGivenUpAreRemoved) {
  BlobRig rig;
  ExecutorEnv env(std::make_unique<SharedRunnerExecutor>(
      SharedRunnerExecutorOptions{2, {{MUSTER_BIN_DIR "/test_runner", "--threads", "2"}, {}}}));
  const Function work{FunctionKind::python, "work", "3.11", {Bytes::copy("body"), 0}};
  const std::string go = rig.folder.path("go");
  env.start(0, work, Bytes::copy("make_when " + go));
  env.start(1, work, Bytes::copy("echo both run"));
  env.wait_for(1);
  env.executor->stop({ExecutorEnv::lease(0)});
  env.wait_for(2);
  EXPECT_EQ(env.stuck, 1U);
  std::ofstream(go).flush();
  env.wait_until([&] { return env.stuck == 0; });
  EXPECT_TRUE(rig.incoming().empty());
}

// --- Memory limits ------------------------------------------------------------------------------

[[maybe_unused]] constexpr std::uint64_t kMegabyte = std::uint64_t{1} << 20;
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MUSTER_SHADOWS_READS  // memory of its own for every byte that is read
#endif
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MUSTER_SANITIZER  // a process has hundreds of megabytes before it does anything
#endif
#endif
#ifdef MUSTER_SANITIZER
[[maybe_unused]] constexpr std::uint64_t kLimit = 1000 * kMegabyte;
#else
[[maybe_unused]] constexpr std::uint64_t kLimit = 150 * kMegabyte;
#endif

#ifndef MUSTER_SHADOWS_READS
TEST(MappedBlobs, DoNotCountAgainstTheMemoryOfATask) {
  BlobRig rig;
  const std::string shared_memory = "/dev/shm/muster-test-" + std::to_string(::getpid());
  std::filesystem::create_directories(shared_memory);
  std::filesystem::remove_all(rig.folder.path("memory"));
  std::filesystem::create_symlink(shared_memory, rig.folder.path("memory"));
  const BlobName large{{1, 2}, 2 * kLimit};  // of zeros, which take memory once they are read
  std::ofstream(rig.path(large)).flush();
  std::filesystem::resize_file(rig.path(large), large.size_bytes);
  ProcessExecutorOptions options;
  options.runner = {{MUSTER_BIN_DIR "/test_runner"}, {}};
  ExecutorEnv env(std::make_unique<ProcessExecutor>(std::move(options)));
  const auto start = [&](std::uint64_t sequence, const std::string& words, Payload payload) {
    JobSpec spec;
    spec.function = {FunctionKind::python, "work", "3.11", {Bytes::copy("body"), 0}};
    spec.resources.memory_bytes = kLimit;
    std::vector<TaskStart> tasks;
    payload = payload.blobs == 0 ? Payload{Bytes::copy(words), 0} : std::move(payload);
    tasks.push_back({ExecutorEnv::lease(sequence), std::make_shared<const JobSpec>(std::move(spec)),
                     std::move(payload)});
    env.executor->start(std::move(tasks));
  };
  const std::string folder = rig.folder.path("");
  start(0, "", BlobRig::payload({large}, Bytes::copy("read_and_wait " + folder)));
  // Longer than the watch takes to look twice, with every page mapped.
  env.wait_until([&] { return std::filesystem::exists(folder + "/reading"); });
  const Time seen = steady_now();
  env.wait_until([&] { return steady_now() > seen + 3 * MemoryWatch::kInterval; });
  const std::ofstream go(folder + "/go");
  env.wait_for(1);
  EXPECT_EQ(env.of(0).outcome.status, OutcomeStatus::result);
  start(1, "grow " + std::to_string(2 * kLimit / kMegabyte), {});
  env.wait_for(2);
  EXPECT_EQ(env.failure(1).kind, "out_of_memory");
  std::filesystem::remove_all(shared_memory);
}
#endif

}  // namespace
}  // namespace muster
