// The worker's loop against whoever may listen at the end of a tunnel: real sockets, and the
// broker's words said by hand.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "broker/authenticator.hpp"
#include "tests/support/child.hpp"
#include "tests/support/messages.hpp"
#include "worker/command_executor.hpp"
#include "worker/loop.hpp"

namespace muster {
namespace {

using testing::make_pipe;
using testing::Pipe;
using testing::TemporaryFolder;
using testing::wait_until;

constexpr SessionId kSession{1, 2};
constexpr JobId kJob{1};

// What listens at an endpoint and admits anybody who says "node1" and "secret".
class Listener {
 public:
  explicit Listener(const std::string& endpoint) {
    authenticator_.allow("node1", "secret", "");
    endpoint_ = router_.bind(endpoint, {Security::plain});
  }
  const std::string& endpoint() const { return endpoint_; }

  // The next message of this kind; the names of others are noted.
  template <typename Kind>
  std::optional<Kind> hear() {
    std::optional<Kind> heard;
    wait_until([&] {
      while (auto received = router_.receive()) {
        auto decoded = decode(received->frames);
        auto& message = std::get<Message>(decoded);
        peer_ = received->peer;
        heard_ += std::string(name_of(message)) + " ";
        if (!std::holds_alternative<Kind>(message)) continue;
        heard = std::get<Kind>(std::move(message));
        return true;
      }
      return false;
    });
    return heard;
  }
  void say(const Message& message) { router_.send(peer_, encode(message, Packing::never)); }
  void welcome(const std::string& proof) {
    message::Welcome welcome;
    welcome.incarnation = {5, 6};
    welcome.heartbeat_interval = std::chrono::milliseconds(100);
    welcome.heartbeat_misses = 1000;
    welcome.proof = proof;
    welcome.pack = true;
    say(welcome);
  }
  void order(std::uint64_t sequence, const std::string& shell) {
    JobSpec spec;
    spec.function.kind = FunctionKind::command;
    say(message::WorkerJob{kSession, kJob, spec});
    const CommandTask command{{"/bin/sh", "-c", shell}, {}, {}, "/", 0};
    say(message::Tasks{
        kSession,
        kJob,
        {{TaskSequence{sequence}, Attempt{0}, {{encode_command_task(command), 0}}}}});
  }
  const std::string& everything_heard() const { return heard_; }

 private:
  TransportContext context_;
  Authenticator authenticator_{context_};
  Router router_{context_};
  std::string endpoint_;
  PeerId peer_{};
  std::string heard_;
};

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
TEST_F(WorkerInATunnel, WhoTakesThePortGetsNoWorkAndNoResults) {
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
