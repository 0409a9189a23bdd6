// Calls that cannot succeed: each ends with a text that says what to do, and harms nothing else.
#include <muster/producer.hpp>

#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

class BadCalls : public Daemons {
 protected:
  Options options() const {
    Options options;
    options.endpoint = endpoint_;
    return options;
  }
  // Expects the call to fail with `kind` and a text that contains each of `parts`.
  static void expect_error(const std::function<void()>& call, const std::string& kind,
                           const std::vector<std::string>& parts) {
    try {
      call();
      ADD_FAILURE() << "no Error; expected " << kind;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      const std::string text = std::string(error.what()) + "\n" + error.traceback();
      for (const std::string& part : parts) {
        EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' in: " << text;
      }
    }
  }
};

TEST_F(BadCalls, AnEndpointWithoutASocketIsReportedAtOnce) {
  const auto begin = std::chrono::steady_clock::now();
  expect_error([&] { Producer producer(options()); }, "disconnected",
               {endpoint_, "muster-broker --listen"});
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST_F(BadCalls, WithoutAWorkerTasksEndAndSayHowToStartOne) {
  const auto broker = start_broker({"--no-worker-timeout", "0.2"});
  Producer producer(options());
  expect_error([&] { producer.submit<int>("square", 3).get(); }, "no_worker",
               {"muster-worker --connect " + endpoint_});
}

class BadTasks : public BadCalls, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Executors, BadTasks, ::testing::Values("thread", "process"),
                         [](const auto& of) { return std::string(of.param); });

TEST_P(BadTasks, EachSaysWhatIsWrongAndTheOthersSucceed) {
  const auto broker = start_broker({"--unknown-function-timeout", "0.2"});
  const auto worker = start_worker({"--executor", GetParam(), "--max-result", "1000"});
  Producer producer(options());
  ASSERT_TRUE(producer.wait_for_slots(1, kPatience)) << worker->error_output();
  auto before = producer.submit<std::int64_t>("square", 3);
  expect_error([&] { producer.submit<std::string>("big_result", 5000).get(); }, "result_too_large",
               {"big_result", "the limit is 1000", "write large results to a file"});
  expect_error([&] { producer.submit<int>("square", "text").get(); }, "bad_arguments", {"square"});
  expect_error([&] { producer.submit<int>("square", 1, 2).get(); }, "bad_arguments", {"square"});
  expect_error([&] { producer.submit<int>("square").get(); }, "bad_arguments", {"square"});
  EXPECT_EQ(before.get(), 9);
  EXPECT_EQ(producer.submit<std::int64_t>("square", 4).get(), 16);
  try {
    producer.submit<int>("sqare", 4).get();
    ADD_FAILURE() << "no Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("sqare"), std::string::npos) << error.what();
  }
}

TEST_F(BadCalls, ACrashNamesItsSignalAndLastLinesAndCostsOneTask) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--executor", "process"});
  Producer producer(options());
  auto crashed = producer.submit<int>("print_and_crash", "last words");
  std::vector<Future<std::int64_t>> others;
  for (int i = 0; i < 20; ++i) others.push_back(producer.submit<std::int64_t>("square", i));
  auto exited = producer.submit<int>("exit_status", 3);
  auto aborted = producer.submit<int>("abort");
  expect_error([&] { crashed.get(); }, "crashed", {"signal 11", "last words"});
  expect_error([&] { exited.get(); }, "crashed", {"status 3"});
  expect_error([&] { aborted.get(); }, "crashed", {"signal 6"});
  for (std::size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(others[i].get(), static_cast<std::int64_t>(i * i));
  }
}

TEST_F(BadCalls, AStuckThreadSlotIsShownAndSaysWhy) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--executor", "thread"});
  Producer producer(options());
  JobOptions impatient;
  impatient.timeout = std::chrono::milliseconds(50);
  auto job = producer.job({"start_forever"}, impatient);
  expect_error([&] { job.submit<int>().get(); }, "timed_out", {"50 ms", "process executor"});
  EXPECT_TRUE(wait_until([&] {
    return status_json().find("\"stuck_slots\": 1") != std::string::npos;
  })) << status_json();
}

}  // namespace
}  // namespace muster::testing
