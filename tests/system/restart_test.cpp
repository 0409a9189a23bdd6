// Brokers and workers killed in the middle of a job: it completes, in order, nothing twice.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <muster/producer.hpp>
#include <system_error>

#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

namespace fs = std::filesystem;

class Restart : public Daemons {
 protected:
  Options options() const {
    Options options;
    options.endpoint = endpoint_;
    return options;
  }
  // How many of the tasks started more than once.
  std::size_t repeated() const {
    std::vector<std::string> starts = lines_of("starts");
    for (std::string& line : starts) line = line.substr(0, line.find(' '));
    std::sort(starts.begin(), starts.end());
    const std::size_t all = starts.size();
    starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
    return all - starts.size();
  }
};

const std::vector<std::string> kInputs = {"1", "2", "3", "4", "5", "6"};
constexpr const char* kOutput = "1\n2\n3\n4\n5\n6\n";

TEST_F(Restart, ACommandThatRunsWhileTheBrokerDiesIsNotRepeated) {
  auto broker = start_broker();
  const auto worker = start_worker({"--slots", "2"});
  const auto run = start_run(kStartAndWait, kInputs);
  ASSERT_TRUE(wait_for_lines("starts", 2)) << run->error_output();
  broker->signal(SIGKILL);
  broker->wait();
  broker = start_broker();
  ASSERT_TRUE(broker->wait_for_output("listening")) << broker->error_output();
  ASSERT_TRUE(wait_until([&] {
    return status_json().find("\"total_slots\": 2") != std::string::npos;
  })) << status_json();
  touch("go");
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), kOutput);
  EXPECT_EQ(lines_of("starts").size(), kInputs.size());
  EXPECT_EQ(repeated(), 0U);
}

TEST_F(Restart, ACommandThatEndsWhileThereIsNoBrokerIsNotLost) {
  auto broker = start_broker();
  const auto worker = start_worker({"--slots", "2"});
  const auto run = start_run(std::string(kStartAndWait) + "; echo {} >> ends", kInputs);
  ASSERT_TRUE(wait_for_lines("starts", 2)) << run->error_output();
  broker->signal(SIGKILL);
  broker->wait();
  touch("go");
  ASSERT_TRUE(wait_for_lines("ends", 2));
  broker = start_broker();
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), kOutput);
  EXPECT_EQ(repeated(), 0U);
}

// The file of about this size that waits to be reported to a broker that is away.
fs::path waiting_result(std::uintmax_t size_bytes) {
  std::error_code gone;  // other tests make and remove files there, too
  const fs::path root = fmt::format("/dev/shm/muster-{}", ::geteuid());
  for (fs::recursive_directory_iterator entry(root, gone), end; !gone && entry != end;
       entry.increment(gone)) {
    std::error_code ignored;
    const std::uintmax_t size = entry->file_size(ignored);
    const bool fits = !ignored && size >= size_bytes && size < size_bytes + 4096;
    if (fits && entry->path().parent_path().filename() == "incoming") return entry->path();
  }
  return {};
}

TEST_F(Restart, AResultInAFileWaitsForABrokerThatWasAwayForLong) {
  constexpr std::uintmax_t kBytes = 3'141'593;
  auto broker = start_broker();
  const auto worker = start_worker();
  const auto run = start_run(fmt::format("{} > file; head -c {} /dev/zero", kStartAndWait, kBytes),
                             {"1"}, {"-q"});
  ASSERT_TRUE(wait_for_lines("starts", 1)) << run->error_output();
  broker->signal(SIGKILL);
  broker->wait();
  touch("go");
  fs::path file;
  ASSERT_TRUE(wait_until([&] { return !(file = waiting_result(kBytes)).empty(); }));
  fs::last_write_time(file, fs::last_write_time(file) - std::chrono::minutes(11));
  broker = start_broker();
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output().size(), kBytes);
  EXPECT_EQ(lines_of("starts").size(), 1U);
}

TEST_F(Restart, AKilledWorkersCommandsRunElsewhereAndItsChildrenDie) {
  const auto broker = start_broker({"--heartbeat-interval", "0.1", "--heartbeat-misses", "5"});
  auto worker = start_worker({"--slots", "2"});
  const auto run = start_run("echo $$ > child{}; " + std::string(kStartAndWait), kInputs);
  ASSERT_TRUE(wait_for_lines("starts", 2)) << run->error_output();
  std::filesystem::copy(folder_.path("child1"), folder_.path("first"));
  worker->signal(SIGKILL);
  worker->wait();
  EXPECT_TRUE(is_gone("first"));
  worker = start_worker({"--slots", "2"});
  touch("go");
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), kOutput);
  EXPECT_EQ(repeated(), 2U) << "those that ran";
}

// Both executors, a C++ producer, a broker and then a worker that die.
class RestartNative : public Restart, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Executors, RestartNative, ::testing::Values("thread", "process"),
                         [](const auto& of) { return std::string(of.param); });

TEST_P(RestartNative, RunningFunctionsAreAdoptedByTheNextBroker) {
  auto broker = start_broker();
  const auto worker = start_worker({"--slots", "2", "--executor", GetParam()});
  Producer producer(options());
  auto job = producer.job({"start_and_wait"});
  std::vector<Future<std::int64_t>> futures;
  for (std::int64_t i = 0; i < 6; ++i) {
    futures.push_back(job.submit<std::int64_t>(folder_.path("."), i));
  }
  ASSERT_TRUE(wait_for_lines("starts", 2)) << worker->error_output();
  broker->signal(SIGKILL);
  broker->wait();
  broker = start_broker();
  ASSERT_TRUE(producer.wait_for_slots(2, kPatience));
  touch("go");
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), i);
  EXPECT_EQ(lines_of("starts").size(), 6U);
  EXPECT_EQ(repeated(), 0U);
}

TEST_P(RestartNative, AKilledWorkersFunctionsRunElsewhere) {
  const auto broker = start_broker({"--heartbeat-interval", "0.1", "--heartbeat-misses", "5"});
  auto worker = start_worker({"--executor", GetParam()});
  Producer producer(options());
  auto job = producer.job({"start_and_wait"});
  std::vector<Future<std::int64_t>> futures;
  for (std::int64_t i = 0; i < 4; ++i) {
    futures.push_back(job.submit<std::int64_t>(folder_.path("."), i));
  }
  ASSERT_TRUE(wait_for_lines("starts", 1)) << worker->error_output();
  worker->signal(SIGKILL);
  worker->wait();
  worker = start_worker({"--executor", GetParam()});
  touch("go");
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(), i);
  EXPECT_EQ(repeated(), 1U) << "the one that ran";
}

}  // namespace
}  // namespace muster::testing
