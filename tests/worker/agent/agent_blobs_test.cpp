// Stories about the agent's blobs: which leases wait, which start before them, and what the broker
// and the node's cache are told. Every message goes through the real codec.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "tests/worker/agent/agent_env.hpp"

namespace muster {
namespace {

constexpr BlobName kBig{{7, 1}, 1 << 30};
constexpr BlobName kSmall{{7, 2}, 1000};
constexpr BlobName kCode{{7, 3}, 5};

class BlobEnv : public AgentEnv {
 public:
  explicit BlobEnv(std::uint32_t slots = 2, bool shares = false) : AgentEnv(options(slots)) {
    welcome(shares);
    declare();
    messages.clear();
  }
  static AgentOptions options(std::uint32_t slots) {
    AgentOptions made;
    made.worker = WorkerId{3, 4};
    made.node = "node7";
    made.slots = slots;
    return made;
  }

  // --- The broker's words
  void welcome(bool shares) {
    agent.connected(now);
    message::Welcome welcome{};
    welcome.software_version = "broker";
    welcome.incarnation = {5, 6};
    agent.receive(welcome, now);
    agent.set_sharing(shares, now);
    settle();
  }
  void declare(JobId job = kJob, const std::vector<BlobName>& code = {}) {
    JobSpec spec;
    if (!code.empty()) {
      spec.function = {FunctionKind::python, "", "3.11", with_blobs(code, {})};
    }
    say(message::WorkerJob{kSession, job, spec});
  }
  void lease(std::uint64_t sequence, const std::vector<BlobName>& blobs, std::uint32_t attempt = 0,
             JobId job = kJob) {
    const Payload body{Bytes::copy("body"), 0};
    const Payload payload = blobs.empty() ? body : with_blobs(blobs, body);
    say(message::Tasks{kSession, job, {{TaskSequence{sequence}, Attempt{attempt}, {payload}}}});
  }
  // --- The executor's and the cache's words
  void finish(std::uint64_t sequence, const std::vector<BlobName>& blobs = {}, JobId job = kJob) {
    const Payload body{Bytes::copy("result"), 0};
    std::vector<TaskFinish> tasks;
    tasks.push_back({{kSession, job, TaskSequence{sequence}, Attempt{0}},
                     {OutcomeStatus::result, blobs.empty() ? body : with_blobs(blobs, body)},
                     std::chrono::seconds(1)});
    agent.finished(std::move(tasks), now);
    settle();
  }
  void acknowledge(std::uint64_t sequence) {
    say(message::AcknowledgeLeases{kSession, kJob, range(sequence, 1)});
  }
  void here(const BlobName& name) { report({BlobReport::Kind::here, name.id}); }
  void report(BlobReport report) {
    std::vector<BlobReport> reports;
    reports.push_back(std::move(report));
    agent.report(std::move(reports), now);
    settle();
  }

  // What the cache was asked, in words.
  std::string take_asked() {
    constexpr const char* kWords[] = {"fetch", "release", "keep", "drop"};
    std::string asked;
    for (const BlobRequest& request : std::exchange(requests, {})) {
      asked += std::string(kWords[static_cast<int>(request.kind)]) + " " +
               std::to_string(request.name.id.low) + ", ";
    }
    return asked;
  }
  std::vector<std::uint64_t> take_started() { return std::exchange(started, {}); }

  // The only message since the last look, which must be of this kind.
  template <typename Kind>
  Kind only() {
    std::vector<Message> taken = std::exchange(messages, {});
    for (const Message& message : taken) {
      EXPECT_TRUE(std::holds_alternative<Kind>(message)) << "got " << name_of(message);
    }
    EXPECT_EQ(taken.size(), 1U);
    return taken.empty() || !std::holds_alternative<Kind>(taken[0]) ? Kind{}
                                                                    : std::get<Kind>(taken[0]);
  }
  // The one failure among the messages since the last look.
  Failure failure() {
    for (const Message& message : std::exchange(messages, {})) {
      const auto* outcomes = std::get_if<message::WorkerOutcomes>(&message);
      if (outcomes == nullptr) continue;
      EXPECT_EQ(outcomes->runs.at(0).outcomes.at(0).status, OutcomeStatus::error);
      return decode_failure(outcomes->runs[0].outcomes[0].body.bytes);
    }
    ADD_FAILURE() << "no outcome was sent";
    return {};
  }
};

using Sequences = std::vector<std::uint64_t>;

TEST(AgentBlobs, ALeaseWaitsForItsBlobsAndOthersStartBeforeIt) {
  BlobEnv env(1);
  env.lease(0, {kBig, kSmall, kBig});
  EXPECT_EQ(env.take_asked(), "fetch 1, fetch 2, ");
  EXPECT_EQ(env.only<message::WorkerBlobs>().waiting, 1U);
  env.lease(1, {});
  env.lease(2, {});
  EXPECT_EQ(env.take_started(), Sequences{1});
  env.here(kSmall);
  const auto said = env.only<message::WorkerBlobs>();
  EXPECT_EQ(said.added, std::vector<BlobName>{kSmall});
  EXPECT_EQ(said.waiting, 1U);
  env.here(kBig);
  EXPECT_EQ(env.only<message::WorkerBlobs>().waiting, 0U);
  env.finish(1);
  EXPECT_EQ(env.take_started(), Sequences{0}) << "it came before task 2";
  env.finish(0);
  EXPECT_EQ(env.take_asked(), "release 1, release 2, ");
}

TEST(AgentBlobs, ABlobOfManyLeasesIsFetchedOnceAndStaysForTheLast) {
  BlobEnv env;
  for (std::uint64_t i = 0; i < 5; ++i) env.lease(i, {kBig});
  EXPECT_EQ(env.take_asked(), "fetch 1, ");
  env.here(kBig);
  EXPECT_EQ(env.take_started(), (Sequences{0, 1}));
  for (std::uint64_t i = 0; i < 4; ++i) env.finish(i);
  EXPECT_EQ(env.take_asked(), "");
  env.finish(4);
  EXPECT_EQ(env.take_asked(), "release 1, ");
  env.lease(5, {kBig});
  EXPECT_EQ(env.take_asked(), "fetch 1, ") << "the cache may have let it go";
}

TEST(AgentBlobs, TheFunctionsBlobsAreNeededLikeTheArguments) {
  BlobEnv env;
  env.declare(JobId{2}, {kCode});
  EXPECT_EQ(env.take_asked(), "") << "nothing is to run yet";
  env.lease(0, {}, 0, JobId{2});
  env.lease(1, {kSmall, kCode}, 0, JobId{2});
  EXPECT_EQ(env.take_asked(), "fetch 3, fetch 2, ");
  env.here(kCode);
  EXPECT_EQ(env.take_started(), Sequences{0});
  env.here(kSmall);
  EXPECT_EQ(env.take_started(), Sequences{1});
}

TEST(AgentBlobs, NothingWaitsWhereTheBrokersFilesAreSeen) {
  BlobEnv env(2, true);
  env.lease(0, {kBig});
  EXPECT_EQ(env.take_started(), Sequences{0});
  EXPECT_EQ(env.take_asked(), "");
  env.welcome(true);
  bool said = false;
  for (const Message& message : env.messages) {
    const auto* blobs = std::get_if<message::WorkerBlobs>(&message);
    if (blobs != nullptr) said = blobs->shares;
  }
  EXPECT_TRUE(said) << "every broker is told anew";
}

TEST(AgentBlobs, ABlobThatCannotBeHadFailsTheLeasesThatWaitForIt) {
  BlobEnv env;
  env.lease(0, {kBig, kSmall});
  env.lease(1, {kSmall});
  env.here(kSmall);
  env.take_asked();
  env.messages.clear();
  env.report({BlobReport::Kind::gone, kBig.id, "its producer left"});
  const Failure failure = env.failure();
  EXPECT_EQ(failure.kind, "blob_lost");
  EXPECT_EQ(failure.message, "an argument of 1073741824 bytes (blob " + to_hex(kBig.id) +
                                 ") cannot be had on node7: its producer left");
  EXPECT_EQ(env.take_started(), Sequences{1});
  EXPECT_EQ(env.take_asked(), "release 1, ");
  env.lease(2, {kBig});
  EXPECT_EQ(env.take_asked(), "fetch 1, ") << "the next one asks again";
}

TEST(AgentBlobs, WaitingLeasesAreRecalledStoppedAndForgottenLikeQueuedOnes) {
  BlobEnv env;
  for (std::uint64_t i = 0; i < 4; ++i) env.lease(i, {kBig});
  env.messages.clear();
  env.say(message::Recall{kSession, kJob, BlobEnv::range(0, 1)});
  EXPECT_EQ(std::get<message::Returned>(env.messages.back()).leases, BlobEnv::range(0, 1));
  env.say(message::StopTasks{kSession, kJob, BlobEnv::range(1, 1)});
  const auto outcomes = std::get<message::WorkerOutcomes>(env.messages.back());
  EXPECT_EQ(outcomes.runs[0].outcomes[0].status, OutcomeStatus::cancelled);
  EXPECT_EQ(env.take_asked(), "fetch 1, ");
  env.say(message::ForgetJob{kSession, kJob});
  EXPECT_EQ(env.take_asked(), "release 1, ");
  EXPECT_TRUE(env.agent.idle());
  env.here(kBig);  // too late
  EXPECT_EQ(env.take_started(), Sequences{});
}

TEST(AgentBlobs, ADrainingWorkerGivesWaitingLeasesBack) {
  BlobEnv env;
  env.lease(0, {kBig});
  env.agent.drain(env.now);
  env.settle();
  EXPECT_EQ(std::get<message::Returned>(env.messages.back()).leases, BlobEnv::range(0, 1));
  EXPECT_EQ(env.take_asked(), "fetch 1, release 1, ");
  EXPECT_TRUE(env.agent.idle());
}

TEST(AgentBlobs, ANewerLeaseOfAWaitingTaskWaitsInItsPlace) {
  BlobEnv env;
  env.lease(0, {kBig});
  env.lease(0, {kSmall}, 1);
  EXPECT_EQ(env.take_asked(), "fetch 1, fetch 2, release 1, ");
  env.here(kBig);
  EXPECT_EQ(env.take_started(), Sequences{});
  env.here(kSmall);
  EXPECT_EQ(env.take_started(), Sequences{0});
}

TEST(AgentBlobs, AReconnectedBrokerHearsWhatIsHereAndWhatWaits) {
  BlobEnv env;
  env.lease(0, {kSmall});
  env.here(kSmall);
  env.lease(1, {kBig});
  env.messages.clear();
  env.agent.connected(env.now);
  env.settle();
  const auto hello = env.only<message::HelloWorker>();
  EXPECT_EQ(hello.held.at(0).leases, BlobEnv::range(0, 2));
  env.report({BlobReport::Kind::evicted, kSmall.id});
  EXPECT_TRUE(env.messages.empty()) << "nothing is said before WELCOME";
  env.here(kBig);
  message::Welcome welcome{};
  welcome.software_version = "broker";
  welcome.incarnation = {5, 6};
  env.say(welcome);
  const auto said = env.only<message::WorkerBlobs>();
  EXPECT_EQ(said.added, std::vector<BlobName>{kBig});
  EXPECT_TRUE(said.removed.empty());
  EXPECT_EQ(said.waiting, 0U);
}

TEST(AgentBlobs, WhatTheCacheLetGoIsSaidOnce) {
  BlobEnv env;
  env.lease(0, {kSmall});
  env.here(kSmall);
  env.finish(0);
  env.messages.clear();
  env.report({BlobReport::Kind::evicted, kSmall.id});
  EXPECT_EQ(env.only<message::WorkerBlobs>().removed, std::vector<BlobId>{kSmall.id});
  env.report({BlobReport::Kind::evicted, kSmall.id});
  env.report({BlobReport::Kind::evicted, kBig.id});
  EXPECT_TRUE(env.messages.empty());
}

TEST(AgentBlobs, ManyBlobsAreSaidInSeveralMessages) {
  BlobEnv env;
  for (std::uint64_t i = 0; i < 3; ++i) {
    std::vector<BlobName> names;
    for (std::uint64_t k = 0; k < 2000; ++k) names.push_back({{100 + i, k}, 1});
    env.lease(i, names);
    for (const BlobName& name : names) env.agent.blob_here(name.id, env.now);
  }
  env.messages.clear();
  env.welcome(false);
  std::size_t count = 0;
  for (const Message& message : env.messages) {
    const auto* said = std::get_if<message::WorkerBlobs>(&message);
    if (said != nullptr) count += said->added.size();
  }
  EXPECT_EQ(count, 6000U);
}

TEST(AgentBlobs, ResultsStayUntilTheyAreAcknowledged) {
  BlobEnv env;
  env.lease(0, {});
  env.finish(0, {kBig, kSmall});
  EXPECT_EQ(env.take_asked(), "keep 1, keep 2, ");
  EXPECT_EQ(env.only<message::WorkerOutcomes>().runs[0].outcomes[0].body.blobs, 2U);
  env.welcome(false);
  EXPECT_EQ(env.take_asked(), "");
  env.acknowledge(0);
  EXPECT_EQ(env.take_asked(), "drop 1, drop 2, ");
  EXPECT_TRUE(env.agent.idle());
}

TEST(AgentBlobs, ResultsThatNobodyWantsAreDropped) {
  BlobEnv env;
  env.lease(0, {});
  env.lease(1, {});
  env.finish(1, {kSmall});
  env.take_asked();
  env.say(message::ForgetJob{kSession, kJob});
  EXPECT_EQ(env.take_asked(), "drop 2, ") << "it was finished";
  env.finish(0, {kBig});
  EXPECT_EQ(env.take_asked(), "drop 1, ") << "it ran when its job was forgotten";
}

TEST(AgentBlobs, AnotherBrokerMayShareItsFilesOrNot) {
  BlobEnv env(1, true);
  env.lease(0, {kBig});
  env.lease(1, {kBig});
  env.lease(2, {});
  env.finish(0, {kSmall});
  env.take_started();
  env.take_asked();
  env.welcome(false);
  EXPECT_EQ(env.take_asked(), "keep 2, ") << "it started 1 already, with the files of before";
  env.lease(3, {kBig});
  env.lease(4, {});
  EXPECT_EQ(env.take_asked(), "fetch 1, ");
  env.welcome(true);
  EXPECT_EQ(env.take_asked(), "release 1, ");
  env.finish(1);
  env.finish(2);
  env.finish(3);
  EXPECT_EQ(env.take_started(), (Sequences{2, 3, 4})) << "3 waits no longer, in its place";
}

TEST(AgentBlobs, QueuedLeasesWaitWhenTheNextBrokerIsElsewhere) {
  BlobEnv env(1, true);
  env.lease(0, {});
  env.lease(1, {kBig});
  env.lease(2, {});
  env.welcome(false);
  EXPECT_EQ(env.take_asked(), "fetch 1, ");
  env.finish(0);
  EXPECT_EQ(env.take_started(), (Sequences{0, 2}));
  env.here(kBig);
  env.finish(2);
  EXPECT_EQ(env.take_started(), Sequences{1});
}

TEST(AgentBlobs, ABlobWithoutRoomFailsOnlyWhenNothingWillMakeAny) {
  BlobEnv env(1);
  env.lease(0, {kSmall});
  env.here(kSmall);
  env.lease(1, {kBig});
  env.report({BlobReport::Kind::blocked, kBig.id, "full", 0});
  env.messages.clear();
  EXPECT_EQ(env.take_asked(), "fetch 2, fetch 1, ");
  env.finish(0);  // its blob makes room, perhaps enough
  EXPECT_EQ(env.take_asked(), "release 2, ");
  env.messages.clear();
  env.report({BlobReport::Kind::blocked, kBig.id, "full", 0});
  EXPECT_TRUE(env.messages.empty()) << "it was said before the release";
  env.report({BlobReport::Kind::blocked, kBig.id, "the disk is full", 1});
  EXPECT_NE(env.failure().message.find("the disk is full"), std::string::npos);
  EXPECT_EQ(env.take_asked(), "release 1, ");
}

}  // namespace
}  // namespace muster
