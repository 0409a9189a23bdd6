// The worker's loop against whoever may listen at the end of a tunnel: real sockets, and the
// broker's words said by hand.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "tests/support/child.hpp"
#include "tests/support/worker_broker.hpp"
#include "worker/executors/command_executor.hpp"
#include "worker/loop.hpp"

namespace muster {
namespace {

using testing::make_pipe;
using testing::Pipe;
using testing::TemporaryFolder;
using Listener = testing::WorkerBroker;

class WorkerInATunnel : public ::testing::Test {
 protected:
  ~WorkerInATunnel() override {
    lifeline_.write_end.reset();
    if (thread_.joinable()) thread_.join();
  }
  void start(const std::string& endpoint, const std::string& proof) {
    AgentOptions options;
    options.worker = {3, 4};
    options.slots = 1;
    options.proof = proof;
    agent_.emplace(options);
    fcntl(signals_.read_end.get(), F_SETFL, O_NONBLOCK);
    LoopOptions where;
    where.endpoint = endpoint;
    where.signals = signals_.read_end.get();
    where.lifeline = lifeline_.read_end.get();
    where.login = PlainLogin{"node1", "secret"};
    loop_.emplace(where, *agent_, executor_);
    thread_ = std::thread([this] { loop_->run(); });
  }
  bool exists(const std::string& name) const { return std::filesystem::exists(folder_.path(name)); }

  TemporaryFolder folder_;
  CommandExecutor executor_{CommandExecutorOptions{}};
  Pipe signals_ = make_pipe();
  Pipe lifeline_ = make_pipe();
  std::optional<Agent> agent_;
  std::optional<WorkerLoop> loop_;
  std::thread thread_;
};

TEST_F(WorkerInATunnel, ObeysNobodyWithoutTheProof) {
  Listener broker("tcp://127.0.0.1:*");
  start(broker.endpoint(), "the proof");
  for (const char* proof : {"a guess", ""}) {
    ASSERT_TRUE(broker.hear<message::HelloWorker>());
    broker.order(0, "touch " + folder_.path("early"));
    broker.welcome(proof);
    broker.order(0, "touch " + folder_.path("early"));
  }
  ASSERT_TRUE(broker.hear<message::HelloWorker>()) << "it tries again";
  EXPECT_EQ(broker.everything_heard(), "HELLO_WORKER HELLO_WORKER HELLO_WORKER ");
  broker.welcome("the proof");
  broker.order(1, "echo done");
  const auto outcomes = broker.hear<message::WorkerOutcomes>();
  ASSERT_TRUE(outcomes);
  EXPECT_EQ(outcomes->runs.at(0).first, TaskSequence{1});
  EXPECT_FALSE(exists("early"));
}

// The tunnel is gone, and another user of the node took its port.
TEST_F(WorkerInATunnel, AStrangerOnThePortGetsNoWorkAndNoResults) {
  std::optional<Listener> broker(std::in_place, "tcp://127.0.0.1:*");
  const std::string endpoint = broker->endpoint();
  start(endpoint, "the proof");
  ASSERT_TRUE(broker->hear<message::HelloWorker>());
  broker->welcome("the proof");
  broker->order(0, "while [ ! -e " + folder_.path("go") + " ]; do sleep 0.02; done");
  ASSERT_TRUE(broker->hear<message::Heartbeat>());
  broker.reset();
  Listener thief(endpoint);
  ASSERT_TRUE(thief.hear<message::HelloWorker>());
  thief.order(1, "touch " + folder_.path("stolen"));
  std::ofstream(folder_.path("go")).put('\n');
  thief.welcome("");
  ASSERT_TRUE(thief.hear<message::HelloWorker>()) << "it tries again";
  EXPECT_EQ(thief.everything_heard().find("OUTCOMES"), std::string::npos)
      << thief.everything_heard();
  EXPECT_FALSE(exists("stolen"));
  // The broker's tunnel is back on that port.
  thief.welcome("the proof");
  const auto outcomes = thief.hear<message::WorkerOutcomes>();
  ASSERT_TRUE(outcomes);
  EXPECT_EQ(outcomes->runs.at(0).first, TaskSequence{0});
}

}  // namespace
}  // namespace muster
