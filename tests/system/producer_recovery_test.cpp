// The producer library when brokers and workers come and go.
#include <gtest/gtest.h>

#include <fstream>
#include <muster/producer.hpp>
#include <numeric>
#include <sstream>

#include "tests/system/pool.hpp"

namespace muster::test {
namespace {

using namespace std::chrono_literals;

Options options_for(const Pool& pool) {
  Options options;
  options.endpoint = pool.endpoint();
  return options;
}

ErrorCode code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "no Error was thrown";
  return ErrorCode::invalid;
}

// Maps `count` numbers and calls `disturb` once a quarter of them is back.
void map_disturbed(Producer& producer, std::int64_t count, const std::function<void()>& disturb) {
  std::vector<std::int64_t> items(static_cast<std::size_t>(count));
  std::iota(items.begin(), items.end(), 0);
  std::int64_t next = 0;
  for (const std::int64_t square : producer.map<std::int64_t>("square", items)) {
    ASSERT_EQ(square, next * next);
    if (++next == count / 4) disturb();
  }
  EXPECT_EQ(next, count);
}

TEST(ProducerRecovery, AKilledBrokerIsResumed) {
  Pool pool;
  pool.start();
  Producer producer(options_for(pool));
  map_disturbed(producer, 200'000, [&] {
    pool.broker->stop(SIGKILL);
    pool.start_broker();
  });
}

TEST(ProducerRecovery, AKilledWorkerIsReplaced) {
  Pool pool;
  pool.start();
  Producer producer(options_for(pool));
  map_disturbed(producer, 200'000, [&] {
    pool.worker->stop(SIGKILL);
    pool.start_worker();
  });
}

TEST(ProducerRecovery, FuturesSurviveABrokerRestart) {
  Pool pool;
  pool.start();
  Producer producer(options_for(pool));
  auto job = producer.job({"sleep_ms"});
  std::vector<Future<std::int64_t>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(job.submit<std::int64_t>(50));
  pool.broker->stop(SIGKILL);
  futures.push_back(job.submit<std::int64_t>(51));
  pool.start_broker();
  for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(futures[i].get(), 50);
  EXPECT_EQ(futures[20].get(), 51);
}

TEST(ProducerRecovery, ALongSilenceEndsEveryWaitAndTheProducerRecovers) {
  Pool pool;
  pool.start();
  Options options = options_for(pool);
  options.broker_timeout = 300ms;
  Producer producer(options);
  EXPECT_EQ(producer.submit<std::int64_t>("add", 1, 2).get(), 3);
  pool.broker->stop(SIGKILL);
  Stream stream = producer.stream({"noop"});
  stream.push({});
  auto future = producer.submit<std::int64_t>("add", 1, 2);
  EXPECT_EQ(code_of([&] { stream.next(); }), ErrorCode::disconnected);
  EXPECT_EQ(code_of([&] { future.get(); }), ErrorCode::disconnected);
  EXPECT_EQ(code_of([&] { producer.status(); }), ErrorCode::disconnected);
  pool.start_broker();
  EXPECT_TRUE(eventually([&] {
    try {
      return producer.submit<std::int64_t>("add", 1, 2).get() == 3;
    } catch (const Error&) {
      return false;
    }
  }));
}

TEST(ProducerRecovery, AnEndpointWhereNobodyListensIsReported) {
  Pool pool;
  Options options = options_for(pool);
  options.connect_timeout = 100ms;
  EXPECT_EQ(code_of([&] { Producer producer(options); }), ErrorCode::disconnected);
  options.endpoint = "tcp://127.0.0.1:1";
  EXPECT_EQ(code_of([&] { Producer producer(options); }), ErrorCode::unusable);
}

TEST(ProducerRecovery, GoodbyeReachesTheBroker) {
  Pool pool;
  pool.start();
  Producer watcher(options_for(pool));
  { Producer other(options_for(pool)); }
  EXPECT_TRUE(eventually(
      [&] { return watcher.status().json.find("\"sessions\": 1") != std::string::npos; }, 5s))
      << watcher.status().json;
}

TEST(ProducerRecovery, AWorkInFlightDoesNotDelayTheDestructor) {
  Pool pool;
  pool.start();
  const auto begin = std::chrono::steady_clock::now();
  {
    Producer producer(options_for(pool));
    for (int i = 0; i < 100; ++i) producer.submit<std::int64_t>("sleep_ms", 10'000);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

// The processes whose parent is or was `folder`'s owner name its path in their arguments.
int processes_naming(const std::string& text) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline");
    std::ostringstream words;
    words << file.rdbuf();  // not an iterator: that throws for a process that has just ended
    const std::string line = words.str();
    if (line.find("muster-") != std::string::npos && line.find(text) != std::string::npos) ++count;
  }
  return count;
}

TEST(ProducerRecovery, AKilledProducerLeavesNoChildBehind) {
  const Folder folder;
  const pid_t child = ::fork();
  if (child == 0) {  // no thread of the library runs in this process yet
    ::setenv("XDG_RUNTIME_DIR", (folder / "").c_str(), 1);
    ::setenv("MUSTER_BIN_DIR", MUSTER_BIN_DIR, 1);
    Options options;
    options.plugins = {MUSTER_PLUGIN_DIR "/test_tasks.so"};
    const Producer producer(options);
    std::ofstream(folder / "ready").put('x');
    ::pause();
  }
  EXPECT_TRUE(eventually([&] { return std::filesystem::exists(folder / "ready"); }));
  EXPECT_EQ(processes_naming(folder / ""), 2);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(eventually([&] { return processes_naming(folder / "") == 0; }));
  std::filesystem::remove(folder / "ready");
  EXPECT_TRUE(eventually([&] { return std::filesystem::is_empty(folder / ""); }));
}

}  // namespace
}  // namespace muster::test
