// Stories about the agent: what a worker says and runs, message by message. Time moves by hand and
// every message goes through the real codec.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/worker/agent/agent_env.hpp"

namespace muster {
namespace {

using Sequences = std::vector<std::uint64_t>;

TEST(Agent, GreetsRunsAndForgetsWhatIsAcknowledged) {
  AgentEnv env;
  EXPECT_EQ(env.agent.link(), Agent::Link::waiting);
  env.connect();
  const auto hello = env.expect<message::HelloWorker>();
  EXPECT_EQ(hello.slots, 2U);
  EXPECT_EQ(hello.cores, 8U);
  EXPECT_EQ(hello.python, "3.11");
  env.connect_and_declare();
  EXPECT_EQ(env.agent.link(), Agent::Link::up);
  env.lease(0, 1);
  EXPECT_EQ(env.started, Sequences{0});
  env.finish(0);
  const auto outcomes = env.expect<message::WorkerOutcomes>();
  EXPECT_EQ(outcomes.runs[0].outcomes[0].body.bytes.text(), "result");
  EXPECT_EQ(outcomes.busy, std::chrono::seconds(1));
  EXPECT_FALSE(env.agent.idle());
  env.say(message::AcknowledgeLeases{kSession, kJob, AgentEnv::range(0, 1)});
  EXPECT_TRUE(env.agent.idle());
  env.expect_nothing();
}

TEST(Agent, GivesLongTasksExactlyTheSlotsAndShortOnesMore) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 100);
  EXPECT_EQ(env.started, (Sequences{0, 1}));
  env.finish(0, 0, std::chrono::seconds(1));
  EXPECT_EQ(env.started, (Sequences{0, 1, 2}));
  for (std::uint64_t i = 1; i < 3; ++i) env.finish(i, 0, std::chrono::seconds(1));
  EXPECT_EQ(env.started.size(), 5U);

  AgentEnv quick;
  quick.connect_and_declare();
  quick.lease(0, 100);
  quick.finish(0, 0, std::chrono::microseconds(100));  // ten more fit into a millisecond
  EXPECT_EQ(quick.started.size(), 1U + 2U * 11U);
}

TEST(Agent, PassesOnWhatTasksSayWhileItIsConnected) {
  AgentEnv env;
  env.connect_and_declare();
  env.print("nobody asked");
  env.print("of no job", JobId{9});
  EXPECT_EQ(env.agent.dropped_lines(), 6U);
  env.declare(true);
  env.lease(0, 1);
  env.print("hello");
  EXPECT_EQ(env.expect<message::WorkerOutput>().lines.at(0).text, "hello");
  env.connect();
  env.expect<message::HelloWorker>();
  env.print("between two connections");
  env.expect_nothing();
  EXPECT_EQ(env.agent.dropped_lines(), 9U);
}

TEST(Agent, TellsTheExecutorOfForgottenJobsOnceTheirTasksEnded) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 1);
  env.say(message::ForgetJob{kSession, kJob});
  EXPECT_TRUE(env.forgets.empty()) << "the executor still runs one";
  env.finish(0);
  EXPECT_EQ(env.forgets, (std::vector<JobName>{{kSession, kJob}}));
  env.declare();
  env.lease(1, 1);
  EXPECT_EQ(env.started, (std::vector<std::uint64_t>{0, 1}));
  EXPECT_EQ(env.forgets.size(), 1U);
}

TEST(Agent, CountsAStuckSlotAsTaken) {
  AgentEnv env;
  env.connect_and_declare();
  env.agent.set_stuck(1, env.now);
  env.lease(0, 3);
  EXPECT_EQ(env.started, Sequences{0});
  EXPECT_EQ(env.expect<message::WorkerState>().stuck_slots, 1U);
  env.agent.set_stuck(0, env.now);
  env.settle();
  EXPECT_EQ(env.started, (Sequences{0, 1}));
}

TEST(Agent, SendsOutcomesAgainAfterEveryWelcomeAndListsWhatItHolds) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 4);
  env.finish(1);
  env.advance(std::chrono::milliseconds(3));
  env.expect<message::WorkerOutcomes>();
  env.connect();
  const auto hello = env.expect<message::HelloWorker>();
  ASSERT_EQ(hello.held.size(), 1U);
  EXPECT_EQ(hello.held[0].leases, AgentEnv::range(0, 4));
  env.finish(0);
  env.expect_nothing();  // not before WELCOME
  env.say(message::Welcome{
      limits::kProtocolVersion, "broker", {9, 9}, std::chrono::seconds(2), 5, 0, 0, false, {}, {}});
  const auto outcomes = env.expect<message::WorkerOutcomes>();
  ASSERT_EQ(outcomes.runs.size(), 1U);
  EXPECT_EQ(outcomes.runs[0].outcomes.size(), 2U);
  EXPECT_EQ(env.started, (Sequences{0, 1, 2, 3}));  // work went on, nothing ran twice
}

TEST(Agent, OutcomesWaitForEachOtherOnlyWhileEverySlotHasMoreToDo) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 4);
  env.finish(0);
  env.expect_nothing();  // two run, one waits: nobody is idle for want of this outcome
  EXPECT_EQ(env.agent.next_deadline(), env.now + std::chrono::milliseconds(3));
  env.advance(std::chrono::milliseconds(3));
  EXPECT_EQ(env.expect<message::WorkerOutcomes>().runs.size(), 1U);
  env.finish(1);  // the last one starts: the broker must hear at once
  EXPECT_EQ(env.expect<message::WorkerOutcomes>().runs.size(), 1U);
  env.finish(2);
  EXPECT_EQ(env.expect<message::WorkerOutcomes>().runs.size(), 1U);
}

TEST(Agent, ALeaseThatComesTwiceRunsOnceWhateverBecameOfIt) {
  AgentEnv env(1);
  env.connect_and_declare();
  env.lease(0, 3);
  env.finish(0);  // 0 is finished, 1 runs, 2 is queued
  env.lease(0, 3);
  env.finish(1);
  env.finish(2);
  EXPECT_EQ(env.started, (std::vector<std::uint64_t>{0, 1, 2}));
  env.say(message::StopTasks{kSession, kJob, AgentEnv::range(2, 1)});
  env.lease(0, 3);
  EXPECT_EQ(env.started.size(), 3U);
}

TEST(Agent, OnlyAnAcknowledgementOfItsAttemptLetsAnOutcomeGo) {
  AgentEnv env(1);
  env.connect_and_declare();
  env.lease(0, 1, 1);
  env.finish(0, 1);
  env.say(message::AcknowledgeLeases{kSession, kJob, AgentEnv::range(0, 1, 0)});
  EXPECT_FALSE(env.agent.idle());
  env.say(message::AcknowledgeLeases{kSession, kJob, AgentEnv::range(0, 1, 1)});
  EXPECT_TRUE(env.agent.idle());
}

TEST(Agent, WhatAnEarlierConnectionSaidIsOverOnceItHasSaidHello) {
  AgentEnv env(1);
  env.connect_and_declare();
  env.connect();
  env.messages.clear();
  env.declare();
  env.lease(0, 1);  // the broker takes it back when it reads HELLO
  env.say(message::Unknown{kIncarnation});
  EXPECT_TRUE(env.started.empty());
  env.expect_nothing();
  env.connect_and_declare();
  env.lease(0, 1, 1);
  EXPECT_EQ(env.started.size(), 1U);
}

TEST(Agent, IgnoresDuplicatesAndReturnsWhatItDoesNotKnow) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 1);
  env.lease(0, 1);
  EXPECT_EQ(env.started, Sequences{0});
  env.say(message::Tasks{kSession, JobId{7}, {{TaskSequence{3}, Attempt{1}, {Payload{}}}}});
  EXPECT_EQ(env.expect<message::Returned>().leases, AgentEnv::range(3, 1, 1));
  env.say(message::AcknowledgeLeases{kSession, kJob, AgentEnv::range(0, std::uint64_t{1} << 62)});
  env.finish(0);
  env.finish(0);
  env.expect<message::WorkerOutcomes>();
  env.expect_nothing();
}

TEST(Agent, ReturnsRecalledLeasesThatHaveNotStarted) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 5);
  env.say(message::Recall{kSession, kJob, AgentEnv::range(0, 5)});
  EXPECT_EQ(env.expect<message::Returned>().leases, AgentEnv::range(2, 3));
  EXPECT_EQ(env.recalls.size(), 2U);  // the executor may not have started these
  env.hand_back(1);
  EXPECT_EQ(env.expect<message::Returned>().leases, AgentEnv::range(1, 1));
  env.finish(0);
  env.expect<message::WorkerOutcomes>();
  env.expect_nothing();
}

TEST(Agent, EndsStoppedLeasesWithAnOutcomeEach) {
  AgentEnv env(1);
  env.connect_and_declare();
  env.lease(0, 2);
  env.say(message::StopTasks{kSession, kJob, AgentEnv::range(0, 2)});
  const auto outcomes = env.expect<message::WorkerOutcomes>();
  EXPECT_EQ(outcomes.runs[0].first, TaskSequence{1});
  EXPECT_EQ(outcomes.runs[0].outcomes[0].status, OutcomeStatus::cancelled);
  ASSERT_EQ(env.stops.size(), 1U);
  env.say(message::StopTasks{kSession, kJob, AgentEnv::range(0, 2)});
  EXPECT_EQ(env.stops.size(), 1U);
  env.finish(0);  // it was quicker
  EXPECT_EQ(env.expect<message::WorkerOutcomes>().runs[0].outcomes[0].status,
            OutcomeStatus::result);
}

TEST(Agent, DropsWhatIsLeftOfAForgottenJob) {
  AgentEnv env(1);
  env.connect_and_declare();
  env.lease(0, 2);
  env.say(message::ForgetJob{kSession, kJob});
  EXPECT_EQ(env.stops.size(), 1U);
  EXPECT_FALSE(env.agent.idle());
  env.finish(0);
  EXPECT_TRUE(env.agent.idle());
  env.expect_nothing();
}

TEST(Agent, RunsAJobThatComesBackAfterItsStoppedTasksEnded) {
  AgentEnv env(1);
  env.connect_and_declare();
  env.lease(0, 1);
  env.say(message::ForgetJob{kSession, kJob});
  env.declare();
  env.lease(0, 1);
  EXPECT_EQ(env.started, Sequences{0});
  env.finish(0);
  EXPECT_EQ(env.started, (Sequences{0, 0}));
  env.expect_nothing();
}

TEST(Agent, LetsARunningTaskServeANewerLease) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 1, 0);
  env.lease(0, 1, 2);
  env.lease(0, 1, 1);  // late
  EXPECT_EQ(env.expect<message::Returned>().leases, AgentEnv::range(0, 1, 1));
  EXPECT_EQ(env.started, Sequences{0});
  env.finish(0, 0);
  EXPECT_EQ(env.expect<message::WorkerOutcomes>().runs[0].attempt, Attempt{2});
}

TEST(Agent, RunsATaskAgainWhoseOutcomeWasNotWanted) {
  AgentEnv env;
  env.connect_and_declare();
  env.lease(0, 1, 0);
  env.finish(0, 0);
  env.expect<message::WorkerOutcomes>();
  env.lease(0, 1, 1);
  EXPECT_EQ(env.started, (Sequences{0, 0}));
}

TEST(Agent, DrainsByGivingBackWhatHasNotStarted) {
  AgentEnv env(1);
  env.connect_and_declare();
  env.lease(0, 3);
  env.agent.drain(env.now);
  env.settle();
  EXPECT_TRUE(env.expect<message::WorkerState>().draining);
  EXPECT_EQ(env.expect<message::Returned>().leases, AgentEnv::range(1, 2));
  EXPECT_EQ(env.recalls.size(), 1U);
  env.lease(5, 1);
  EXPECT_EQ(env.expect<message::Returned>().leases, AgentEnv::range(5, 1));
  env.finish(0);
  env.expect<message::WorkerOutcomes>();
  env.say(message::AcknowledgeLeases{kSession, kJob, AgentEnv::range(0, 1)});
  EXPECT_TRUE(env.agent.idle());
}

TEST(Agent, KeepsTheLinkAliveAndNoticesSilence) {
  AgentEnv env;
  env.connect_and_declare();
  env.advance(std::chrono::seconds(2));
  env.expect<message::Heartbeat>();
  env.say(message::Heartbeat{77, true});
  const auto reply = env.expect<message::Heartbeat>();
  EXPECT_EQ(reply.token, 77U);
  EXPECT_FALSE(reply.reply_wanted);
  for (int i = 0; i < 4; ++i) env.advance(std::chrono::seconds(2));
  EXPECT_EQ(env.agent.link(), Agent::Link::up);
  env.advance(std::chrono::seconds(2));
  EXPECT_EQ(env.agent.link(), Agent::Link::silent);
  EXPECT_EQ(env.agent.next_deadline(), kNever);
  env.messages.clear();
  env.connect();
  env.expect<message::HelloWorker>();
  EXPECT_EQ(env.agent.link(), Agent::Link::waiting);
}

TEST(Agent, SaysHelloToABrokerThatDoesNotKnowItAndEndsWhenRefused) {
  AgentEnv env;
  env.connect_and_declare();
  env.say(message::Unknown{kIncarnation});
  env.expect<message::HelloWorker>();
  env.say(message::Refuse{message::RefuseCode::version, "install version 2"});
  EXPECT_EQ(env.agent.link(), Agent::Link::refused);
  EXPECT_EQ(env.agent.refusal(), "install version 2");
  env.connect();
  env.expect_nothing();
}

TEST(Agent, CutsOutcomesIntoBatches) {
  AgentEnv env;
  env.connect_and_declare();
  for (std::uint64_t i = 0; i < 3; ++i) env.lease(i * 1000, 1000);
  std::vector<TaskFinish> tasks;
  while (!env.started.empty()) {
    for (const std::uint64_t sequence : std::exchange(env.started, {})) {
      tasks.push_back({{kSession, kJob, TaskSequence{sequence}, Attempt{0}}, {}, Duration{100}});
    }
    std::reverse(tasks.begin(), tasks.end());
    env.agent.finished(std::exchange(tasks, {}), env.now);
    env.settle();
  }
  std::size_t total = 0;
  while (!env.messages.empty()) {
    std::size_t count = 0;
    for (const OutcomeRun& run : env.expect<message::WorkerOutcomes>().runs) {
      count += run.outcomes.size();
    }
    EXPECT_LE(count, limits::kBatchTasks);
    total += count;
  }
  EXPECT_EQ(total, 3000U);
}

TEST(Agent, DropsMessagesThatAreNotForWorkersInAnyState) {
  AgentEnv env;
  env.agent.receive(message::Tasks{kSession, kJob, {}}, env.now);
  EXPECT_EQ(env.agent.dropped_messages(), 1U);
  env.connect_and_declare();
  env.say(message::Goodbye{});
  env.say(message::StatusRequest{});
  env.say(message::Credit{1, 1});
  EXPECT_EQ(env.agent.dropped_messages(), 4U);
  env.expect_nothing();
}

}  // namespace
}  // namespace muster
