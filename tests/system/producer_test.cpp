// The producer library against the embedded pool: what an application sees.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <muster/producer.hpp>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <thread>

#include "tests/system/program.hpp"

namespace muster::test {
namespace {

using namespace std::chrono_literals;

Options embedded(Executor executor = Executor::thread) {
  ::setenv("MUSTER_BIN_DIR", MUSTER_BIN_DIR, 1);
  Options options;
  options.slots = 2;
  options.executor = executor;
  options.plugins = {MUSTER_PLUGIN_DIR "/test_tasks.so"};
  return options;
}

template <typename Call>
Error error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no Error was thrown";
  return Error(ErrorCode::invalid, "none", "none");
}

class ProducerTest : public ::testing::Test {
 protected:
  Producer producer{embedded()};
};

TEST_F(ProducerTest, SubmitsAndGets) {
  auto future = producer.submit<std::int64_t>("add", 40, 2);
  EXPECT_EQ(future.get(), 42);
  EXPECT_EQ(future.get(), 42);
  EXPECT_TRUE(future.ready());
  EXPECT_EQ(producer.submit<std::int64_t>("add", 1, 2).sequence(), 1U);
}

TEST_F(ProducerTest, MapsInSubmissionOrder) {
  std::vector<std::int64_t> items(100'000);
  std::iota(items.begin(), items.end(), 0);
  std::int64_t next = 0;
  for (const std::int64_t square : producer.map<std::int64_t>("square", items)) {
    ASSERT_EQ(square, next * next);
    ++next;
  }
  EXPECT_EQ(next, 100'000);
}

TEST_F(ProducerTest, ReturnsEachOnceInCompletionOrder) {
  std::vector<std::tuple<std::int64_t, std::int64_t>> items;
  for (std::int64_t i = 0; i < 5000; ++i) items.emplace_back(i, 1);
  std::set<std::uint64_t> seen;
  auto results = producer.as_completed<std::int64_t>("add", items);
  for (auto it = results.begin(); it != results.end(); ++it) {
    EXPECT_EQ(*it, static_cast<std::int64_t>(it.sequence()) + 1);
    EXPECT_TRUE(seen.insert(it.sequence()).second);
  }
  EXPECT_EQ(seen.size(), items.size());
}

TEST_F(ProducerTest, LargePayloadsComeBackWhole) {
  const std::string text(5'000'000, 'z');
  auto job = producer.job({"echo"});
  EXPECT_EQ(job.submit_raw(Bytes::copy(text)).get().text(), text);
}

TEST_F(ProducerTest, TellsFailuresApart) {
  const Error failed = error_of([&] { producer.submit<int>("fail", "no luck").get(); });
  EXPECT_EQ(failed.code(), ErrorCode::task_failed);
  EXPECT_EQ(failed.kind(), "exception");
  EXPECT_NE(std::string(failed.what()).find("no luck"), std::string::npos);
  const Error arguments = error_of([&] { producer.submit<int>("add", "text").get(); });
  EXPECT_EQ(arguments.kind(), "bad_arguments");
  const Error unknown = error_of([&] { producer.submit<int>("no_such_function").get(); });
  EXPECT_TRUE(unknown.code() == ErrorCode::no_worker || unknown.code() == ErrorCode::task_failed)
      << unknown.kind() << ": " << unknown.what();
  JobOptions options;
  options.timeout = 50ms;
  auto job = producer.job({"sleep_ms"}, options);
  EXPECT_EQ(error_of([&] { job.submit<int>(60'000).get(); }).code(), ErrorCode::task_timed_out);
  EXPECT_THROW(producer.submit<std::string>("add", 1, 2).get(), PackError);
}

TEST_F(ProducerTest, AFailedTaskDoesNotEndTheIteration) {
  std::vector<std::tuple<std::string>> items(3);
  auto results = producer.map<int>("fail", items);
  int failures = 0;
  try {
    results.begin();
  } catch (const Error&) {
    ++failures;
  }
  for (int i = 0; i < 2; ++i) {
    auto it = results.begin();
    failures += error_of([&] { ++it; }).code() == ErrorCode::task_failed ? 1 : 0;
  }
  EXPECT_EQ(failures, 3);
}

TEST_F(ProducerTest, RefusesBadCalls) {
  EXPECT_EQ(error_of([&] { producer.submit<int>(""); }).code(), ErrorCode::invalid);
  EXPECT_EQ(error_of([&] { producer.submit<int>(std::string(600, 'x')); }).code(),
            ErrorCode::invalid);
  JobOptions options;
  options.crash_budget = 0;
  EXPECT_EQ(error_of([&] { producer.stream({"noop"}, options); }).code(), ErrorCode::invalid);
  EXPECT_EQ(error_of([] { Future<int>().get(); }).code(), ErrorCode::invalid);
}

TEST_F(ProducerTest, CancelsAndTimesOutWaits) {
  auto job = producer.job({"sleep_ms"});
  auto running = job.submit<std::int64_t>(60'000);
  EXPECT_FALSE(running.wait_for(20ms));
  EXPECT_EQ(error_of([&] { running.get(20ms); }).code(), ErrorCode::wait_timed_out);
  running.cancel();
  EXPECT_EQ(error_of([&] { running.get(); }).code(), ErrorCode::task_cancelled);
  std::vector<Future<std::int64_t>> others;
  for (int i = 0; i < 50; ++i) others.push_back(job.submit<std::int64_t>(60'000));
  job.cancel();
  for (auto& other : others) {
    EXPECT_EQ(error_of([&] { other.get(); }).code(), ErrorCode::task_cancelled);
  }
}

TEST_F(ProducerTest, StreamsCanBePolledFlushedAndCancelled) {
  Stream stream = producer.stream({"sleep_ms"});
  EXPECT_FALSE(stream.next());  // nothing is missing
  BytesArena arena;
  for (int i = 0; i < 10; ++i) stream.push(pack_arguments(arena, 60'000));
  stream.flush();
  EXPECT_FALSE(stream.next(10ms));
  EXPECT_TRUE(stream.timed_out());
  stream.cancel(3);
  stream.cancel();
  stream.close();
  for (std::uint64_t i = 0; i < 10; ++i) {
    const auto item = stream.next();
    ASSERT_TRUE(item);
    EXPECT_EQ(item->sequence, i);
    ASSERT_TRUE(item->error);
    EXPECT_EQ(item->error->code(), ErrorCode::task_cancelled);
  }
  EXPECT_FALSE(stream.next());
  EXPECT_FALSE(stream.timed_out());
  EXPECT_EQ(stream.returned(), 10U);
}

TEST_F(ProducerTest, FuturesFromManyThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (std::int64_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::vector<Future<std::int64_t>> futures;
      for (std::int64_t i = 0; i < 2000; ++i) {
        futures.push_back(producer.submit<std::int64_t>("add", t, i));
      }
      for (std::int64_t i = 0; i < 2000; ++i) {
        right += futures[static_cast<std::size_t>(i)].get() == t + i ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 16'000);
}

// An input that never ends, of which the first 200,000 results are read.
struct Endless {
  struct Iterator {
    using iterator_category = std::input_iterator_tag;
    using value_type = std::int64_t;
    using difference_type = std::ptrdiff_t;
    std::int64_t* pulled;
    std::int64_t operator*() const { return *pulled; }
    Iterator& operator++() {
      ++*pulled;
      return *this;
    }
    bool operator==(const Iterator&) const { return false; }
  };
  std::int64_t* pulled;
  Iterator begin() const { return {pulled}; }
  Iterator end() const { return {pulled}; }
};

TEST_F(ProducerTest, AnEndlessInputRunsAheadByTheWindowOnly) {
  std::int64_t pulled = 0;
  std::int64_t read = 0;
  JobOptions options;
  options.window = 1000;
  for (const std::int64_t square :
       producer.map<std::int64_t>("square", Endless{&pulled}, options)) {
    ASSERT_EQ(square, read * read);
    ASSERT_LE(pulled, read + 1001);
    if (++read == 50'000) break;
  }
}

TEST_F(ProducerTest, ReportsItsStatus) {
  EXPECT_TRUE(producer.wait_for_slots(2, 5s));
  EXPECT_FALSE(producer.wait_for_slots(3, 50ms));
  const PoolStatus status = producer.status();
  EXPECT_EQ(status.total_slots, 2U);
  EXPECT_EQ(status.workers, 1U);
  EXPECT_NE(status.json.find("\"total_slots\": 2"), std::string::npos) << status.json;
}

TEST_F(ProducerTest, ACrashOfTheWorkerIsSurvived) {
  const Error lost = error_of([&] { producer.submit<int>("crash").get(); });
  EXPECT_EQ(lost.code(), ErrorCode::task_lost) << lost.kind() << ": " << lost.what();
  EXPECT_EQ(producer.submit<std::int64_t>("add", 1, 2).get(), 3);
}

TEST(ProducerLife, HandlesMayOutliveTheProducer) {
  std::optional<Stream> stream;
  std::optional<Job> job;
  Future<std::int64_t> waiting;
  Future<std::int64_t> finished;
  std::thread waiter;
  {
    Producer producer(embedded());
    finished = producer.submit<std::int64_t>("add", 1, 1);
    EXPECT_EQ(finished.get(), 2);
    job = producer.job({"sleep_ms"});
    waiting = job->submit<std::int64_t>(60'000);
    stream = producer.stream({"sleep_ms"});
    stream->push(pack_value(std::vector<int>{60'000}));
    waiter = std::thread(
        [&] { EXPECT_EQ(error_of([&] { waiting.get(); }).code(), ErrorCode::task_cancelled); });
  }
  waiter.join();
  EXPECT_EQ(finished.get(), 2);
  EXPECT_EQ(error_of([&] { stream->next(); }).code(), ErrorCode::task_cancelled);
  EXPECT_EQ(error_of([&] { job->submit<int>(1).get(); }).code(), ErrorCode::task_cancelled);
  waiting.cancel();
  job->cancel();
}

TEST(ProducerLife, APlugInThatDoesNotLoadIsReported) {
  Options options = embedded();
  options.plugins = {MUSTER_SOURCE_DIR "/LICENSE"};
  const Error error = error_of([&] { Producer producer(options); });
  EXPECT_EQ(error.code(), ErrorCode::unusable);
  EXPECT_NE(std::string(error.what()).find("LICENSE"), std::string::npos) << error.what();
  options.plugins = {"/no/such/plugin.so"};
  EXPECT_EQ(error_of([&] { Producer producer(options); }).code(), ErrorCode::unusable);
}

TEST(ProducerLife, APoolOfSeveralWorkersHasTheSlotsOfAll) {
  Options options = embedded();
  options.workers = 3;
  options.environment = {{"MUSTER_TEST_WORD", "said"}};
  options.programs = MUSTER_BIN_DIR;
  ::setenv("MUSTER_BIN_DIR", "/no/such/folder", 1);
  Producer producer(options);
  ::setenv("MUSTER_BIN_DIR", MUSTER_BIN_DIR, 1);
  EXPECT_EQ(producer.total_slots(), 6U);
  std::set<std::string> endings;
  const auto status = nlohmann::json::parse(producer.status().json);
  for (const auto& worker : status["workers"]) {
    const std::string node = worker["node"];
    endings.insert(node.substr(node.rfind('-')));
    const auto process = worker["process_id"].get<int>();
    std::ifstream file("/proc/" + std::to_string(process) + "/environ");
    const std::string environment{std::istreambuf_iterator<char>(file), {}};
    EXPECT_NE(environment.find("MUSTER_TEST_WORD=said"), std::string::npos);
  }
  EXPECT_EQ(endings, (std::set<std::string>{"-1", "-2", "-3"}));
  EXPECT_EQ(producer.submit<std::int64_t>("add", 1, 2).get(), 3);
}

TEST(ProducerLife, OptionsThatContradictEachOtherAreReported) {
  Options options = embedded();
  options.workers = 0;
  EXPECT_EQ(error_of([&] { Producer producer(options); }).code(), ErrorCode::invalid);
  options.workers = 1;
  options.python = "/usr/bin/python3";
  EXPECT_EQ(error_of([&] { Producer producer(options); }).code(), ErrorCode::invalid);
}

TEST_F(ProducerTest, PythonFunctionsHaveABody) {
  const auto code_of = [&](const FunctionName& function) {
    return error_of([&] { producer.submit_raw(function, {}); }).code();
  };
  EXPECT_EQ(code_of({"label", false, "3.11", {}}), ErrorCode::invalid);
  EXPECT_EQ(code_of({"label", true, "3.11", Bytes::copy("x")}), ErrorCode::invalid);
  EXPECT_EQ(code_of({"label", false, "", Bytes::copy("x")}), ErrorCode::invalid);
  const Error error = error_of([&] {
    producer.submit_raw({"", false, "2.7", Bytes::copy("x")}, {}).get();
  });
  EXPECT_EQ(error.kind(), "wrong_interpreter") << error.what();
  EXPECT_TRUE(producer.next_output(1ms).empty());
}

TEST(ProducerLife, MissingProgramsAreReported) {
  Options options = embedded();
  ::setenv("MUSTER_BIN_DIR", "/no/such/folder", 1);
  const Error error = error_of([&] { Producer producer(options); });
  ::setenv("MUSTER_BIN_DIR", MUSTER_BIN_DIR, 1);
  EXPECT_EQ(error.code(), ErrorCode::unusable);
  EXPECT_NE(std::string(error.what()).find("/no/such/folder"), std::string::npos) << error.what();
}

}  // namespace
}  // namespace muster::test
