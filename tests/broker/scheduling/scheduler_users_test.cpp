// Several users of one machine at one broker: what each may do, and what is nobody else's.
#include <set>

#include "tests/broker/scheduling/environment.hpp"
#include "tests/support/blob_set.hpp"

namespace muster {
namespace {

using message::RefuseCode;

class SeveralUsers : public SchedulerTest {
 protected:
  SeveralUsers() {
    options_.blobs = &files_;
    restart();
  }
  ~SeveralUsers() override {  // the files go before the scheduler
    scheduler_->check_invariants();
    options_.blobs = nullptr;
    restart();
  }
  // A producer of this user says HELLO on a new connection.
  PeerId come(std::uint64_t session, const LocalUser& user, bool resuming = false) {
    const PeerId peer{++last_};
    message::HelloProducer hello;
    hello.software_version = "1.2.3";
    hello.session = {session, 77};
    hello.label = "test";
    hello.resuming = resuming;
    producers_[peer].id = hello.session;
    send(peer, hello, nullptr, user);
    return peer;
  }
  PeerId work(std::uint64_t worker, const LocalUser& user) {
    const PeerId peer{++last_};
    workers_[peer].id = {worker, 99};
    send(peer, hello_of(worker, 1), nullptr, user);
    return peer;
  }
  template <typename Kind>
  const Kind* told(PeerId peer) {
    return find_other<Kind>(workers_.count(peer) != 0 ? workers_[peer].other
                                                      : producers_[peer].other);
  }
  void expect_refused(PeerId peer, std::string_view why) {
    const auto* refuse = told<message::Refuse>(peer);
    ASSERT_NE(refuse, nullptr);
    EXPECT_EQ(refuse->code, RefuseCode::identity);
    EXPECT_NE(refuse->text.find(why), std::string::npos) << refuse->text;
    EXPECT_EQ(told<message::Welcome>(peer), nullptr);
  }
  std::vector<BlobAnswer> put(PeerId peer, const BlobSource& source) {
    send(peer, message::BlobPut{{source}});
    const auto* answers = told<message::BlobAnswers>(peer);
    return answers == nullptr ? std::vector<BlobAnswer>{} : answers->blobs;
  }

  testing::BlobSet files_;
  const LocalUser own_;
  const LocalUser ada_{"user 1001", 1001, true, false};
  const LocalUser bob_{"user 1002", 1002, true, false};
  const LocalUser eve_{"user 1003", 1003, true, true};  // whose workers are admitted
  std::uint64_t last_ = 1000;
};

TEST_F(SeveralUsers, ASessionBelongsToTheUserWhoSaidItFirst) {
  const PeerId worker = work(1, own_);
  const PeerId ada = come(5, ada_);
  declare(ada, 1);
  submit(ada, JobId{1}, 0, 1);
  for (const LocalUser& other : {bob_, own_}) expect_refused(come(5, other), "another user");
  EXPECT_EQ(scheduler_->status(now_).sessions, 1U);
  finish(worker, 1);
  EXPECT_EQ(producers_[ada].outcomes.size(), 1U) << "the owner is not disturbed";
  EXPECT_NE(told<message::Welcome>(come(5, ada_)), nullptr) << "and may come back";
}

TEST_F(SeveralUsers, NobodyTakesASessionOfTheBrokersUser) {
  const PeerId own = come(5, own_);
  disconnect(own);
  expect_refused(come(5, ada_), "another user");
  EXPECT_NE(told<message::Welcome>(come(5, own_)), nullptr);
}

TEST_F(SeveralUsers, ASessionThatOnlyWorkersNamedIsOpenToItsProducer) {
  const PeerId worker =
      add_worker(1, 1, {"f"}, {{SessionId{5, 77}, JobId{1}, {{TaskSequence{0}, 1, Attempt{0}}}}});
  const PeerId ada = come(5, ada_, true);
  declare(ada, 1);
  submit(ada, JobId{1}, 0, 1);
  EXPECT_EQ(scheduler_->counter("leases_adopted"), 1U);
  expect_refused(come(5, bob_), "another user");
  EXPECT_TRUE(sequences(worker).empty()) << "it is not leased again";
}

TEST_F(SeveralUsers, ARefusedGreetingLeavesNoSession) {
  const PeerId ada = come(5, ada_);
  producers_[ada].other.clear();
  message::HelloProducer hello;
  hello.session = {6, 77};
  send(ada, hello, nullptr, ada_);
  expect_refused(ada, "two sessions");
  EXPECT_EQ(scheduler_->status(now_).sessions, 0U);
}

TEST_F(SeveralUsers, AMemberBringsNoWorkersUnlessItIsListed) {
  const PeerId ada = work(1, ada_);
  expect_refused(ada, "user 1001");
  expect_refused(ada, "--worker-users");
  EXPECT_EQ(scheduler_->status(now_).total_slots, 0U);
  EXPECT_NE(told<message::Welcome>(work(2, eve_)), nullptr);
  EXPECT_EQ(scheduler_->status(now_).total_slots, 1U);
}

TEST_F(SeveralUsers, AWorkerBelongsToTheUserWhoSaidItFirst) {
  work(1, own_);
  expect_refused(work(1, eve_), "another user");
  work(2, eve_);
  expect_refused(work(2, own_), "another user");
  EXPECT_EQ(scheduler_->status(now_).total_slots, 2U);
}

TEST_F(SeveralUsers, OnlyTheBrokersUserCommandsNodes) {
  for (const LocalUser& member : {ada_, eve_}) {
    const PeerId peer = come(member.id, member);
    send(peer, message::NodesUp{"hosts = [\"a\"]", "/etc/pool.toml"});
    const auto* answer = told<message::NodesAnswer>(peer);
    ASSERT_NE(answer, nullptr);
    EXPECT_NE(answer->error.find(member.name), std::string::npos) << answer->error;
    producers_[peer].other.clear();
    send(peer, message::NodesDown{{}, true});
    answer = told<message::NodesAnswer>(peer);
    ASSERT_NE(answer, nullptr);
    EXPECT_FALSE(answer->error.empty());
    EXPECT_EQ(told<message::Refuse>(peer), nullptr) << "its tasks go on";
  }
  EXPECT_TRUE(scheduler_->take_node_requests().empty());
  send(come(9, own_), message::NodesUp{"hosts = [\"a\"]", "/etc/pool.toml"});
  EXPECT_EQ(scheduler_->take_node_requests().size(), 1U);
}

TEST_F(SeveralUsers, AMemberNamesNoFileThatTheBrokerWouldOpen) {
  const BlobSource file{{{1, 1}, 100}, BlobPlace::file, "/etc/shadow", 0};
  const auto answers = put(come(5, ada_), file);
  ASSERT_EQ(answers.size(), 1U);
  EXPECT_EQ(answers[0].state, BlobState::refused);
  EXPECT_NE(answers[0].text.find("send the content"), std::string::npos) << answers[0].text;
  EXPECT_EQ(files_.size(), 0U);
  const auto own = put(come(6, own_), file);
  ASSERT_EQ(own.size(), 1U);
  EXPECT_EQ(own[0].state, BlobState::here);
}

TEST_F(SeveralUsers, WhatAMemberWroteHasToBeItsOwn) {
  put(come(5, ada_), {{{1, 1}, 100}, BlobPlace::memory, "a.a"});
  EXPECT_EQ(files_.last_maker(), std::optional<std::uint32_t>(1001));
  put(come(6, own_), {{{1, 2}, 100}, BlobPlace::memory, "b.b"});
  EXPECT_EQ(files_.last_maker(), std::nullopt);
}

TEST_F(SeveralUsers, StatusShowsNoIdThatCouldBeUsed) {
  work(1, own_);
  work(2, eve_);
  declare(come(5, own_), 1);
  declare(come(6, ada_), 1);
  const message::Status status = scheduler_->status(now_);
  ASSERT_EQ(status.jobs.size(), 2U);
  EXPECT_EQ(status.jobs[0].session, "s1");
  EXPECT_EQ(status.jobs[1].session, "s2 (user 1001)");
  ASSERT_EQ(status.workers.size(), 2U);
  EXPECT_EQ(std::set<std::string>({status.workers[0].worker, status.workers[1].worker}),
            std::set<std::string>({"w1", "w2"}));
}

// --- Shares

class Shares : public SeveralUsers {
 protected:
  // A program of this user with one job of many tasks.
  PeerId run(std::uint64_t session, const LocalUser& user, std::int32_t priority = 0) {
    const PeerId peer = come(session, user);
    JobSpec spec;
    spec.priority = priority;
    declare(peer, 1, spec);
    submit(peer, JobId{1}, 0, 100);
    return peer;
  }
  // How many of the next tasks of this worker each session gets.
  std::map<std::uint64_t, int> count(PeerId worker, int tasks) {
    std::map<std::uint64_t, int> counts;
    for (int i = 0; i < tasks; ++i) {
      ++counts[workers_[worker].session.high];
      finish(worker, 1, 1s);
    }
    return counts;
  }
};

TEST_F(Shares, AreEqualBetweenUsersHoweverManyProgramsTheyRun) {
  for (std::uint64_t session = 1; session <= 9; ++session) run(session, ada_);
  run(10, bob_);
  auto counts = count(work(1, own_), 60);
  EXPECT_NEAR(counts[10], 30, 2);
  for (std::uint64_t session = 1; session <= 9; ++session) EXPECT_NEAR(counts[session], 3, 2);
}

TEST_F(Shares, APriorityCountsAmongTheProgramsOfOneUser) {
  run(1, ada_, 0);
  run(2, ada_, 1'000'000);
  run(3, bob_, 0);
  auto counts = count(work(1, own_), 40);
  EXPECT_NEAR(counts[2], 20, 2);
  EXPECT_NEAR(counts[3], 20, 2);
  EXPECT_LE(counts[1], 1);
}

TEST_F(Shares, WhoWasAwayDoesNotClaimWhatItMissed) {
  run(1, ada_);
  const PeerId worker = work(1, own_);
  count(worker, 50);
  run(2, bob_);
  auto counts = count(worker, 20);
  EXPECT_NEAR(counts[2], 10, 2);
}

TEST_F(Shares, WhoDeclaresAJobForEveryTaskIsNotServedForNothing) {
  const PeerId ada = come(1, ada_);
  for (std::uint32_t job = 1; job <= 60; ++job) submit(ada, declare(ada, job), 0, 1);
  run(2, bob_);
  auto counts = count(work(1, own_), 40);
  EXPECT_NEAR(counts[2], 20, 3);
}

// --- Limits

class Limits : public SeveralUsers {
 protected:
  Limits() {
    options_.credit_tasks = 1024;
    options_.credit_bytes = 1 << 20;
    options_.credit_blob_bytes = 1000;
    options_.blob_folders = {"/memory", "/disk"};
    restart();
  }
  std::uint64_t credit(PeerId peer) {
    const auto* welcome = told<message::Welcome>(peer);
    return welcome == nullptr ? 0 : welcome->credit_tasks;
  }
};

TEST_F(Limits, AMembersCreditIsBoundedHoweverManyProgramsItRuns) {
  EXPECT_EQ(credit(come(1, ada_)), 1024U) << "one program sees no difference";
  EXPECT_EQ(credit(come(2, ada_)), 512U);
  EXPECT_EQ(credit(come(3, ada_)), 256U);
  EXPECT_EQ(credit(come(4, bob_)), 1024U);
  std::uint64_t all = 1024 + 512 + 256;
  for (std::uint64_t session = 5; session < 5 + 253; ++session) all += credit(come(session, ada_));
  EXPECT_LE(all, 4U * 1024);
  const PeerId more = come(999, ada_);
  const auto* refuse = told<message::Refuse>(more);
  ASSERT_NE(refuse, nullptr);
  EXPECT_EQ(refuse->code, RefuseCode::over_limit);
  EXPECT_NE(refuse->text.find("user 1001"), std::string::npos) << refuse->text;
  EXPECT_EQ(credit(come(1000, bob_)), 512U) << "others are not concerned";
}

TEST_F(Limits, WhatAProgramLeavesGoesToTheOthersOfItsUser) {
  const PeerId first = come(1, ada_);
  const PeerId second = come(2, ada_);
  submit(second, declare(second, 1), 0, 512);
  EXPECT_EQ(told<message::Refuse>(second), nullptr);
  send(first, message::Goodbye{});
  const auto* raised = told<message::Credit>(second);
  ASSERT_NE(raised, nullptr);
  EXPECT_EQ(raised->tasks, 1024U);
  submit(second, JobId{1}, 512, 512);
  EXPECT_EQ(told<message::Refuse>(second), nullptr);
  submit(second, JobId{1}, 1024, 1);
  EXPECT_NE(told<message::Refuse>(second), nullptr);
}

TEST_F(Limits, TheBrokersUserHasThoseOfItsProgramsAlone) {
  for (std::uint64_t session = 1; session <= 300; ++session) {
    ASSERT_EQ(credit(come(session, own_)), 1024U) << session;
  }
}

TEST_F(Limits, AMembersBlobsLeaveRoomToOthers) {
  const PeerId first = come(1, ada_);
  const PeerId second = come(2, ada_);
  EXPECT_EQ(told<message::Welcome>(first)->credit_blob_bytes, 500U);
  const auto state = [&](PeerId peer, std::uint64_t id, std::uint64_t bytes) {
    producers_[peer].other.clear();
    const auto answers = put(peer, {{{1, id}, bytes}, BlobPlace::memory, "a.a"});
    return answers.empty() ? std::nullopt : std::optional(answers[0].state);
  };
  EXPECT_EQ(state(first, 1, 300), BlobState::here);
  EXPECT_EQ(state(second, 2, 300), BlobState::refused);
  EXPECT_EQ(state(second, 5, 200), BlobState::here);
  EXPECT_EQ(state(come(3, bob_), 3, 500), BlobState::here);
  send(first, message::Goodbye{});
  EXPECT_EQ(state(second, 4, 300), BlobState::here) << "which the other program gave back";
}

TEST_F(Limits, AMembersJobsAreBoundedHoweverManyProgramsItRuns) {
  const auto declare_many = [&](PeerId peer, std::uint32_t count) {
    JobSpec spec;
    spec.function.name = "f";
    for (std::uint32_t job = 1; job <= count; ++job) {
      scheduler_->receive(peer, message::Job{JobId{job}, spec}, now_);
    }
  };
  declare_many(come(1, ada_), limits::kMaxJobs);
  declare_many(come(2, ada_), limits::kMaxJobs);
  const PeerId third = come(3, ada_);
  declare(third, 1);
  const auto* refuse = told<message::Refuse>(third);
  ASSERT_NE(refuse, nullptr);
  EXPECT_EQ(refuse->code, RefuseCode::over_limit);
}

}  // namespace
}  // namespace muster
