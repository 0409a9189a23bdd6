// Stories of the scheduler in bad times: losses, retries, restarts, cancellation, hostile peers.
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

TEST_F(SchedulerTest, ASilentWorkersLeasesGoFirstToTheOthers) {
  const PeerId lost = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 3);
  const PeerId other = add_worker(2, 1);
  EXPECT_EQ(sequences(other), (std::vector<std::uint64_t>{1}));
  pass(11s, {other, producer});
  EXPECT_EQ(scheduler_->counter("workers_lost"), 1U);
  finish(other, 1, 10s);
  EXPECT_EQ(workers_[other].leases.front(), (HeldLease{job, 0, 1})) << "the lost one, attempt 1";
  finish(lost, HeldLease{job, 0, 0});
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U) << "a stranger's outcome of an old attempt";
}

TEST_F(SchedulerTest, AnOutcomeFromAWorkerGivenUpCountsWhileNobodyElseHasTheTask) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 1);
  const HeldLease lease = workers_[worker].leases.front();
  pass(11s, {producer});
  const PeerId back =
      add_worker(1, 1, {"f"}, {{producers_[producer].id, job, {{TaskSequence{0}, 1, Attempt{0}}}}});
  EXPECT_TRUE(workers_[back].leases.empty()) << "it runs there already";
  workers_[back].session = producers_[producer].id;
  finish(back, lease);
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U);
}

TEST_F(SchedulerTest, AnErrorSpendsRetriesAndThenReachesTheProducer) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.retries = 2;
  submit(producer, declare(producer, 1, spec), 0, 1);
  for (std::uint32_t attempt = 0; attempt < 3; ++attempt) {
    EXPECT_TRUE(producers_[producer].outcomes.empty());
    ASSERT_EQ(workers_[worker].leases.size(), 1U);
    EXPECT_EQ(workers_[worker].leases.front().attempt, attempt);
    finish(worker, 1, 1ms, OutcomeStatus::error);
  }
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(producers_[producer].outcomes[0].second.status, OutcomeStatus::error);
  EXPECT_EQ(scheduler_->counter("tasks_retried"), 2U);
}

TEST_F(SchedulerTest, ATaskThatKillsItsWorkersEndsAsLostAndAlone) {
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 4);  // task 0 kills whoever runs it
  std::uint64_t id = 0;
  for (int death = 0; death < 10 && scheduler_->counter("leases_lost") < 6; ++death) {
    const PeerId worker = add_worker(++id, 2);
    const auto leases = sequences(worker);
    if (std::find(leases.begin(), leases.end(), 0U) == leases.end()) {
      while (!workers_[worker].leases.empty() && workers_[worker].leases.front().sequence != 0) {
        finish(worker, 1);
      }
    }
    if (workers_[worker].leases.empty()) break;
    if (death == 2) {
      EXPECT_EQ(sequences(worker), (std::vector<std::uint64_t>{0})) << "its last run is its own";
    }
    pass(11s, {producer});
  }
  const auto& outcomes = producers_[producer].outcomes;
  const auto lost = std::find_if(outcomes.begin(), outcomes.end(), [](const auto& entry) {
    return entry.second.status == OutcomeStatus::lost;
  });
  ASSERT_NE(lost, outcomes.end());
  EXPECT_EQ(lost->first, 0U);
  const PeerId last = add_worker(++id, 2);
  while (!workers_[last].leases.empty()) finish(last, 1);
  EXPECT_EQ(outcomes.size(), 4U);
  EXPECT_EQ(
      std::count_if(outcomes.begin(), outcomes.end(),
                    [](const auto& entry) { return entry.second.status == OutcomeStatus::result; }),
      3)
      << "its neighbours are innocent";
}

TEST_F(SchedulerTest, ALostWorkerCostsItsTasksNothingThatHadNotStarted) {
  const PeerId producer = add_producer(1);
  JobSpec fragile;
  fragile.crash_budget = 1;
  submit(producer, declare(producer, 1, fragile), 0, 10);
  const PeerId worker = add_worker(1, 1);
  finish(worker, 1, 1ms);
  ASSERT_EQ(sequences(worker).front(), 1U);
  ASSERT_GT(sequences(worker).size(), 1U) << "short ones are leased ahead";
  pass(11s, {producer});
  ASSERT_EQ(producers_[producer].outcomes.size(), 2U);
  EXPECT_EQ(producers_[producer].outcomes[1].first, 1U);
  EXPECT_EQ(producers_[producer].outcomes[1].second.status, OutcomeStatus::lost);
  const PeerId next = add_worker(2, 1);
  while (!workers_[next].leases.empty()) finish(next, 1);
  EXPECT_EQ(producers_[producer].outcomes.size(), 10U);
}

TEST_F(SchedulerTest, AWorkerThatSaysGoodbyeCostsItsTasksNothing) {
  const PeerId producer = add_producer(1);
  JobSpec fragile;
  fragile.crash_budget = 1;
  submit(producer, declare(producer, 1, fragile), 0, 1);
  send(add_worker(1, 1), message::Goodbye{});
  EXPECT_TRUE(producers_[producer].outcomes.empty());
  const PeerId next = add_worker(2, 1);
  finish(next, 1);
  EXPECT_EQ(producers_[producer].outcomes[0].second.status, OutcomeStatus::result);
}

TEST_F(SchedulerTest, AShortBreakCostsNothing) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 3);
  disconnect(worker);
  pass(3s, {producer});
  // It held task 0; the message with task 1 was lost with the connection.
  const PeerId again =
      add_worker(1, 2, {"f"}, {{producers_[producer].id, job, {{TaskSequence{0}, 1, Attempt{0}}}}});
  EXPECT_EQ(scheduler_->counter("leases_lost"), 0U);
  ASSERT_EQ(workers_[again].leases.size(), 1U);
  EXPECT_EQ(workers_[again].leases.front(), (HeldLease{job, 1, 1}));
}

TEST_F(SchedulerTest, AProducerThatReconnectsGetsItsOutcomesAgain) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 2);
  finish(worker, 1);
  disconnect(producer);
  finish(worker, 1);
  const PeerId again = add_producer(1);
  const auto* welcome = find_other<message::Welcome>(producers_[again].other);
  ASSERT_NE(welcome, nullptr);
  ASSERT_EQ(welcome->jobs.size(), 1U);
  EXPECT_EQ(welcome->jobs[0].next_sequence, TaskSequence{2});
  EXPECT_EQ(producers_[again].outcomes.size(), 2U);
  submit(again, job, 0, 2);
  EXPECT_EQ(scheduler_->tasks_held(), 2U) << "what the broker has is not taken twice";
}

TEST_F(SchedulerTest, AProducerThatStaysAwayIsForgotten) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 5);
  disconnect(producer);
  pass(59s, {worker});
  EXPECT_EQ(scheduler_->tasks_held(), 5U);
  pass(2s, {worker});
  EXPECT_EQ(scheduler_->tasks_held(), 0U);
  EXPECT_NE(find_other<message::ForgetJob>(workers_[worker].other), nullptr);
}

TEST_F(SchedulerTest, ARestartedBrokerAdoptsWhatIsRunning) {
  const SessionId session{1, 77};
  const PeerId first = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 2);
  ASSERT_EQ(sequences(first), (std::vector<std::uint64_t>{0}));
  restart();
  // The producer is back before the worker: its tasks wait for what workers may report.
  const PeerId producer_again = add_producer(1, true);
  declare(producer_again, 1);
  submit(producer_again, job, 0, 2);
  const PeerId other = add_worker(2, 1);
  EXPECT_TRUE(workers_[other].leases.empty());
  const PeerId back = add_worker(1, 1, {"f"}, {{session, job, {{TaskSequence{0}, 1, Attempt{0}}}}});
  pass(3s, {other, back, producer_again});
  EXPECT_EQ(sequences(other), (std::vector<std::uint64_t>{1})) << "task 0 runs on the first worker";
  workers_[back].session = session;
  finish(back, HeldLease{job, 0, 0});
  ASSERT_EQ(producers_[producer_again].outcomes.size(), 1U);
}

TEST_F(SchedulerTest, ARestartedBrokerKeepsOutcomesForAProducerThatIsNotBackYet) {
  restart();
  const SessionId session{1, 77};
  const PeerId worker =
      add_worker(1, 1, {"f"}, {{session, JobId{1}, {{TaskSequence{4}, 1, Attempt{2}}}}});
  workers_[worker].session = session;
  finish(worker, HeldLease{JobId{1}, 4, 2});
  EXPECT_EQ(workers_[worker].acknowledged, 0U) << "the worker keeps it, too";
  const PeerId producer = add_producer(1, true);
  submit(producer, declare(producer, 1), 4, 1);
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(producers_[producer].outcomes[0].first, 4U);
  EXPECT_EQ(workers_[worker].acknowledged, 1U);
}

TEST_F(SchedulerTest, CancelEndsQueuedTasksAtOnceAndAsksForLeasedOnes) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 3);
  send(producer, message::Cancel{job, {}});
  EXPECT_EQ(producers_[producer].outcomes.size(), 2U);
  ASSERT_EQ(workers_[worker].stopped.size(), 1U);
  finish(worker, 1, 1ms, OutcomeStatus::cancelled);
  EXPECT_EQ(producers_[producer].outcomes.size(), 3U);
}

TEST_F(SchedulerTest, CancelOfADyingWorkersTaskEnds) {
  add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 1);
  send(producer, message::Cancel{job, {{TaskSequence{0}, 1}}});
  pass(11s, {producer});
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(producers_[producer].outcomes[0].second.status, OutcomeStatus::cancelled);
}

TEST_F(SchedulerTest, SaysWhyAJobWaitsAndGivesUpInTheEnd) {
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.function.name = "absent";
  submit(producer, declare(producer, 1, spec), 0, 1);
  pass(1s, {producer});
  ASSERT_FALSE(producers_[producer].notices.empty());
  EXPECT_NE(producers_[producer].notices.back().find("no worker is connected"), std::string::npos);
  const PeerId worker = add_worker(1, 1, {"f", "g"});
  pass(1s, {producer, worker});
  EXPECT_NE(producers_[producer].notices.back().find("'absent' (offered: f, g)"),
            std::string::npos);
  pass(3s, {producer, worker});
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(decode_failure(producers_[producer].outcomes[0].second.body.bytes).kind,
            "unknown_function");
}

TEST_F(SchedulerTest, RefusesWhatBreaksTheProtocolAndServesTheRest) {
  const PeerId good = add_producer(1);
  const auto refused = [&](PeerId peer) {
    return find_other<message::Refuse>(producers_[peer].other);
  };
  const PeerId undeclared = add_producer(2);
  submit(undeclared, JobId{9}, 0, 1);
  ASSERT_NE(refused(undeclared), nullptr);
  EXPECT_EQ(refused(undeclared)->code, message::RefuseCode::out_of_order);
  const PeerId impostor = add_producer(3);
  send(impostor, message::Returned{{1, 1}, JobId{1}, {}});
  ASSERT_NE(refused(impostor), nullptr);
  const PeerId old{77};
  message::HelloProducer hello;
  hello.protocol_version = 99;
  hello.software_version = "9.9";
  hello.session = {5, 5};
  send(old, hello);
  ASSERT_NE(refused(old), nullptr);
  EXPECT_EQ(refused(old)->code, message::RefuseCode::version);
  EXPECT_NE(refused(old)->text.find("install muster 1.2.3"), std::string::npos);
  const PeerId stranger{78};
  send(stranger, message::StatusRequest{});
  send(stranger, message::StatusRequest{});
  EXPECT_EQ(producers_[stranger].other.size(), 1U) << "told once that it is unknown";
  scheduler_->malformed(PeerId{79}, message::RefuseCode::malformed, "junk", now_);
  const PeerId worker = add_worker(1, 1);
  submit(good, declare(good, 1), 0, 1);
  finish(worker, 1);
  EXPECT_EQ(producers_[good].outcomes.size(), 1U);
}

TEST_F(SchedulerTest, APeerThatIsRefusedWithItsFirstMessageIsIgnoredAfterwards) {
  message::HelloProducer hello;
  hello.protocol_version = 99;
  hello.software_version = "9.9";
  hello.session = {5, 5};
  const PeerId bad_version{77};
  const PeerId not_admitted{78};
  const PeerId junk{79};
  const LocalUser member{"ada", 1001, true, false};
  const auto speak = [&] {
    send(bad_version, hello);
    send(not_admitted, hello_of(1, 1), nullptr, member);
    scheduler_->malformed(junk, message::RefuseCode::malformed, "junk", now_);
  };
  for (int i = 0; i < 5; ++i) {
    speak();
    pass(1s);
  }
  EXPECT_EQ(scheduler_->counter("peers_refused"), 3U);
  EXPECT_EQ(producers_[bad_version].other.size(), 1U);
  EXPECT_EQ(producers_[not_admitted].other.size(), 1U);
}

TEST_F(SchedulerTest, MoreThanTheCreditIsRefused) {
  options_.credit_tasks = 10;
  restart();
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 10);
  EXPECT_EQ(find_other<message::Refuse>(producers_[producer].other), nullptr);
  submit(producer, job, 10, 1);
  ASSERT_NE(find_other<message::Refuse>(producers_[producer].other), nullptr);
  EXPECT_EQ(scheduler_->tasks_held(), 0U) << "its state is freed";
}

TEST_F(SchedulerTest, ABrokerThatStoodStillBlamesNobody) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 1);
  now_ += 1h;  // suspended
  pass(1s);
  EXPECT_EQ(scheduler_->counter("workers_lost"), 0U);
  finish(worker, 1);
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U);
}

}  // namespace
}  // namespace muster
