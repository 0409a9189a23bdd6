// Stories about an agent that was told how to know its broker: it obeys nobody else.
#include <gtest/gtest.h>

#include "worker/agent/agent.hpp"

namespace muster {
namespace {

constexpr SessionId kSession{1, 2};
constexpr JobId kJob{1};

class AgentWithProof : public ::testing::Test {
 protected:
  AgentWithProof() : agent_(options()) {
    agent_.connected(now_);
    EXPECT_EQ(said(), "HELLO_WORKER ");
  }
  static AgentOptions options() {
    AgentOptions made;
    made.worker = WorkerId{3, 4};
    made.slots = 1;
    made.proof = "the proof";
    return made;
  }
  static message::Welcome welcome(const std::string& proof) {
    message::Welcome made;
    made.incarnation = {5, 6};
    made.proof = proof;
    return made;
  }
  // A job and a task of it; how many tasks were started.
  std::size_t lease(std::uint64_t sequence) {
    agent_.receive(message::WorkerJob{kSession, kJob, {}}, now_);
    agent_.receive(message::Tasks{kSession, kJob, {{TaskSequence{sequence}, Attempt{0}, {{}}}}},
                   now_);
    return agent_.take_actions().starts.size();
  }
  // The names of what the agent has to say.
  std::string said() {
    std::string names;
    for (const Message& message : agent_.take_actions().messages) {
      names += std::string(name_of(message)) + " ";
    }
    return names;
  }

  Agent agent_;
  Time now_ = std::chrono::seconds(100);
};

TEST_F(AgentWithProof, NothingCountsBeforeTheRightWelcome) {
  EXPECT_EQ(lease(0), 0U);
  agent_.receive(message::Heartbeat{7, true}, now_);
  agent_.receive(message::Unknown{}, now_);
  agent_.receive(message::Refuse{message::RefuseCode::identity, "go away"}, now_);
  EXPECT_EQ(agent_.link(), Agent::Link::waiting);
  EXPECT_EQ(said(), "") << "a stranger learns nothing but HELLO";
  agent_.receive(welcome("the proof"), now_);
  EXPECT_EQ(agent_.link(), Agent::Link::up);
  EXPECT_EQ(lease(1), 1U);
  agent_.check_invariants();
}

TEST_F(AgentWithProof, AWelcomeWithAnotherProofMakesAStranger) {
  for (const char* proof : {"", "the proo", "the proof ", "THE PROOF"}) {
    agent_.connected(now_);
    said();
    agent_.receive(welcome(proof), now_);
    EXPECT_EQ(agent_.link(), Agent::Link::stranger) << proof;
    EXPECT_EQ(lease(0), 0U);
    agent_.receive(welcome("the proof"), now_);
    EXPECT_EQ(agent_.link(), Agent::Link::stranger) << "one guess for each connection";
    EXPECT_EQ(agent_.next_deadline(), kNever);
  }
  agent_.disconnected(now_);
  EXPECT_EQ(agent_.link(), Agent::Link::waiting);
  agent_.connected(now_);
  agent_.receive(welcome("the proof"), now_);
  EXPECT_EQ(agent_.link(), Agent::Link::up);
}

TEST_F(AgentWithProof, EveryConnectionNeedsItAgain) {
  agent_.receive(welcome("the proof"), now_);
  agent_.connected(now_);
  said();
  EXPECT_EQ(lease(0), 0U);
  agent_.set_proof("another");
  agent_.connected(now_);
  agent_.receive(welcome("another"), now_);
  EXPECT_EQ(lease(0), 1U);
}

TEST_F(AgentWithProof, ASilentStrangerIsGivenUp) {
  for (int i = 0; i < 20; ++i) {
    now_ += limits::kHeartbeatInterval;
    agent_.receive(message::Heartbeat{}, now_);
    agent_.tick(now_);
  }
  EXPECT_EQ(agent_.link(), Agent::Link::silent) << "what a stranger says is no sign of life";
}

TEST_F(AgentWithProof, DisconnectedItSaysNothingAndKeepsItsOutcomes) {
  agent_.receive(welcome("the proof"), now_);
  ASSERT_EQ(lease(0), 1U);
  agent_.disconnected(now_);
  std::vector<TaskFinish> tasks;
  tasks.push_back({{kSession, kJob, TaskSequence{0}, Attempt{0}}, {}, std::chrono::seconds(1)});
  agent_.finished(std::move(tasks), now_);
  now_ += std::chrono::hours(1);
  agent_.tick(now_);
  EXPECT_EQ(said(), "");
  EXPECT_EQ(agent_.link(), Agent::Link::waiting);
  agent_.connected(now_);
  EXPECT_EQ(said(), "HELLO_WORKER ");
  agent_.receive(welcome("the proof"), now_);
  EXPECT_NE(said().find("WORKER_OUTCOMES"), std::string::npos);
}

}  // namespace
}  // namespace muster
