// The worker's real loop through every change of its link, with a broker that the test drives by
// hand: what runs goes on, is reported anew, and its outcome arrives.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>

#include "tests/support/impostor.hpp"
#include "tests/support/worker_broker.hpp"
#include "worker/executors/command_executor.hpp"
#include "worker/loop.hpp"

namespace muster::testing {
namespace {

constexpr std::uint32_t kMisses = 2;  // of 100 ms

class WorkerLink : public ::testing::Test {
 protected:
  WorkerLink() {
    AgentOptions options;
    options.worker = {3, 4};
    options.slots = 1;
    agent_.emplace(options);
    fcntl(signals_.read_end.get(), F_SETFL, O_NONBLOCK);
    LoopOptions where;
    where.endpoint = folder_.endpoint("broker");
    where.signals = signals_.read_end.get();
    where.lifeline = lifeline_.read_end.get();
    broker_.emplace(where.endpoint);
    loop_.emplace(where, *agent_, executor_);
    thread_ = std::thread([this] { loop_->run(); });
  }
  ~WorkerLink() override {
    lifeline_.write_end.reset();
    thread_.join();
  }
  // The worker is connected, and runs a task until go().
  void start(std::uint32_t misses = kMisses) {
    ASSERT_TRUE(broker_->hear<message::HelloWorker>());
    broker_->welcome("", misses);
    broker_->order(7, "echo >> " + folder_.path("starts") + "; while [ ! -e " + folder_.path("go") +
                          " ]; do sleep 0.02; done");
    ASSERT_TRUE(wait_until([this] { return std::ifstream(folder_.path("starts")).get() >= 0; }));
  }
  void go() const { std::ofstream(folder_.path("go")).put('\n'); }
  void expect_hello_of_what_runs() {
    const auto hello = broker_->hear<message::HelloWorker>();
    ASSERT_TRUE(hello);
    ASSERT_EQ(hello->held.size(), 1U);
    EXPECT_EQ(hello->held.at(0).leases.at(0).first, TaskSequence{7});
  }
  void finish() {
    go();
    const auto outcomes = broker_->hear<message::WorkerOutcomes>();
    ASSERT_TRUE(outcomes);
    EXPECT_EQ(outcomes->runs.at(0).first, TaskSequence{7});
    std::ifstream starts(folder_.path("starts"));
    EXPECT_EQ(std::count(std::istreambuf_iterator<char>(starts), {}, '\n'), 1) << "it ran once";
  }

  TemporaryFolder folder_;
  CommandExecutor executor_{CommandExecutorOptions{}};
  Pipe signals_ = make_pipe();
  Pipe lifeline_ = make_pipe();
  std::optional<WorkerBroker> broker_;
  std::optional<Agent> agent_;
  std::optional<WorkerLoop> loop_;
  std::thread thread_;
};

TEST_F(WorkerLink, ComesBackAfterSilencesAndHellosWithoutAnswer) {
  start();
  for (int i = 0; i < 3; ++i) expect_hello_of_what_runs();  // it is never answered
  broker_->welcome("", 1000);
  finish();
}

// Whatever it was, perhaps tasks: the broker sends it again on a new connection.
TEST_F(WorkerLink, ComesBackAfterAMessageThatItCannotRead) {
  start(1000);
  broker_->say_nonsense();
  expect_hello_of_what_runs();
  broker_->welcome("", 1000);
  finish();
}

TEST_F(WorkerLink, RepeatsAnOutcomeThatNobodyAcknowledged) {
  start();
  go();
  ASSERT_TRUE(broker_->hear<message::WorkerOutcomes>());
  expect_hello_of_what_runs();
  broker_->welcome("", 1000);
  finish();
}

TEST_F(WorkerLink, ComesBackToAnotherIncarnationTwice) {
  start();
  for (int i = 0; i < 2; ++i) {
    const std::string endpoint = broker_->endpoint();
    broker_.reset();
    broker_.emplace(endpoint);
    expect_hello_of_what_runs();
    broker_->welcome("", kMisses);
  }
  expect_hello_of_what_runs();  // the second one falls silent
  broker_->welcome("", 1000);
  finish();
}

TEST_F(WorkerLink, ComesBackAfterSomebodyElseListenedThere) {
  start();
  const std::string endpoint = broker_->endpoint();
  broker_.reset();
  {
    Impostor impostor(folder_.path("broker"));
    impostor.meet("");
    impostor.meet("HTTP/1.1 400 Bad Request: this is another kind of server altogether\r\n\r\n");
  }
  broker_.emplace(endpoint);
  expect_hello_of_what_runs();
  broker_->welcome("", 1000);
  finish();
}

}  // namespace
}  // namespace muster::testing
