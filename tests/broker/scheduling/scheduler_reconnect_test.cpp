// Stories about peers that come back: what was said on two connections, and who hears the end.
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

std::vector<message::HeldLeases> held_by(const SessionId& session, std::uint32_t job,
                                         std::uint64_t first, std::uint64_t count,
                                         std::uint32_t attempt = 0) {
  return {{session, JobId{job}, {{TaskSequence{first}, count, Attempt{attempt}}}}};
}

TEST_F(SchedulerTest, ALeaseIsOnlyItsOwnWorkersToFinishOrToGiveBack) {
  const PeerId producer = add_producer(1);
  const PeerId worker = add_worker(1, 1);
  submit(producer, declare(producer, 1), 0, 1);
  const PeerId other = add_worker(2, 1, {"g"});
  workers_[other].session = producers_[producer].id;
  const HeldLease lease = workers_[worker].leases.front();
  finish(other, lease);
  send(other, message::Returned{producers_[producer].id,
                                lease.job,
                                {{TaskSequence{lease.sequence}, 1, Attempt{lease.attempt}}}});
  EXPECT_TRUE(producers_[producer].outcomes.empty());
  EXPECT_EQ(workers_[worker].leases.size(), 1U) << "it was leased once";
  finish(worker, 1);
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U);
}

TEST_F(SchedulerTest, AnErrorOfACancelledTaskIsNotTriedAgain) {
  const PeerId producer = add_producer(1);
  const PeerId worker = add_worker(1, 1);
  JobSpec spec;
  spec.retries = 3;
  const JobId job = declare(producer, 1, spec);
  submit(producer, job, 0, 1);
  send(producer, message::Cancel{job, {{TaskSequence{0}, 1}}});
  finish(worker, 1, 1ms, OutcomeStatus::error);
  EXPECT_TRUE(workers_[worker].leases.empty());
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U);
}

TEST_F(SchedulerTest, WhatIsOnItsWayBetweenTwoHellosOfOneConnectionIsNotTakenBack) {
  const PeerId producer = add_producer(1);
  const PeerId worker = add_worker(1, 1);
  submit(producer, declare(producer, 1), 0, 1);
  add_worker(2, 1);
  send(worker, hello_of(1, 1));
  EXPECT_EQ(scheduler_->counter("leases_refused"), 0U);
  finish(worker, 1);
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U);
}

TEST_F(SchedulerTest, AWorkerThatIsBackHearsTheEndOfTheJobsThatItHolds) {
  const PeerId producer = add_producer(1);
  PeerId worker = add_worker(1, 1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 1);
  worker = add_worker(1, 1, {"f"}, held_by(producers_[producer].id, 1, 0, 1));
  send(producer, message::Goodbye{});
  EXPECT_NE(find_other<message::ForgetJob>(workers_[worker].other), nullptr);
}

TEST_F(SchedulerTest, ASessionThatTheBrokerKnowsDoesNotResume) {
  add_producer(1);
  const PeerId producer = add_producer(1, true);  // after a break of its connection
  const PeerId worker =
      add_worker(1, 1, {"f"}, held_by(producers_[producer].id, 9, 0, 1));  // a job that has ended
  EXPECT_NE(find_other<message::ForgetJob>(workers_[worker].other), nullptr);
  EXPECT_TRUE(scheduler_->status(now_).jobs.empty());
}

TEST_F(SchedulerTest, AJobThatOnlyAWorkerSpeaksOfIsForgottenInTheEnd) {
  const PeerId producer = add_producer(1, true);  // the broker before this one knew it
  const PeerId worker = add_worker(1, 1, {"f"}, held_by(producers_[producer].id, 9, 0, 1));
  pass(options_.session_grace - 1s, {producer, worker});
  EXPECT_EQ(find_other<message::ForgetJob>(workers_[worker].other), nullptr)
      << "its producer may still submit it again";
  EXPECT_TRUE(scheduler_->waits_for_producer(producers_[producer].id, JobId{9}));
  pass(3s, {producer, worker});
  EXPECT_NE(find_other<message::ForgetJob>(workers_[worker].other), nullptr);
  EXPECT_TRUE(scheduler_->status(now_).jobs.empty());
  EXPECT_FALSE(scheduler_->waits_for_producer(producers_[producer].id, JobId{9}));
}

TEST_F(SchedulerTest, AWorkerThatIsAwayGetsNoLeasesUntilItIsBack) {
  const PeerId away = add_worker(1, 2);
  disconnect(away);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 2);
  const PeerId other = add_worker(2, 1);
  EXPECT_EQ(sequences(other), (std::vector<std::uint64_t>{0}));
  const PeerId back = add_worker(1, 2);
  EXPECT_EQ(workers_[back].leases, (std::deque<HeldLease>{{JobId{1}, 1, 0}})) << "leased once";
}

TEST_F(SchedulerTest, AFailureThatIsSaidAgainDoesNotEndTheNextAttempt) {
  const PeerId producer = add_producer(1);
  const PeerId worker = add_worker(1, 1);
  JobSpec spec;
  spec.retries = 1;
  submit(producer, declare(producer, 1, spec), 0, 1);
  const HeldLease first = workers_[worker].leases.front();
  finish(worker, 1, 1ms, OutcomeStatus::error);
  ASSERT_EQ(workers_[worker].leases, (std::deque<HeldLease>{{first.job, 0, 1}}));
  finish(worker, first, 1ms, OutcomeStatus::error);
  EXPECT_TRUE(producers_[producer].outcomes.empty());
  finish(worker, 1);
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(producers_[producer].outcomes[0].second.status, OutcomeStatus::result);
}

TEST_F(SchedulerTest, AnOutcomeOfAnEarlierAttemptDoesNotEndATaskThatWaitsForTheNext) {
  const PeerId producer = add_producer(1);
  add_worker(1, 1);
  submit(producer, declare(producer, 1), 0, 1);
  pass(11s, {producer});
  add_worker(2, 1);
  pass(11s, {producer});
  ASSERT_EQ(scheduler_->counter("leases_lost"), 2U);
  const PeerId back = add_worker(1, 1, {"g"});
  workers_[back].session = producers_[producer].id;
  finish(back, HeldLease{JobId{1}, 0, 0});
  EXPECT_TRUE(producers_[producer].outcomes.empty());
  EXPECT_EQ(scheduler_->counter("outcomes_late"), 1U);
}

// The producer has the outcome of task 7, and so does not submit it again.
TEST_F(SchedulerTest, TheEndOfAJobStopsLeasesThatItsProducerDidNotSubmitAgain) {
  const PeerId worker = add_worker(1, 1, {"f"}, held_by({1, 77}, 1, 7, 1));
  const PeerId producer = add_producer(1, true);
  const JobId job = declare(producer, 1);
  submit(producer, job, 3, 1);
  EXPECT_TRUE(workers_[worker].stopped.empty()) << "task 7 may follow";
  send(producer, message::EndJob{job});
  EXPECT_EQ(workers_[worker].stopped, (std::vector<HeldLease>{{job, 7, 0}}));
  pass(3s, {worker, producer});
  finish(worker, 1);
  send(producer, message::AcknowledgeOutcomes{job, {{TaskSequence{3}, 1}}});
  EXPECT_TRUE(scheduler_->status(now_).jobs.empty());
}

// A broker that has restarted adopts task 0, and then loses its worker. While the only other worker
// is busy with another job, the task waits for it, in order to run there alone.
TEST_F(SchedulerTest, AnAdoptedTaskOnItsLastRunIsLeasedOnce) {
  options_.resume_wait = 20s;
  restart();
  add_worker(1, 1, {"f"}, held_by({1, 77}, 1, 0, 1));
  const PeerId busy = add_worker(2, 1);
  const PeerId other = add_producer(2);
  submit(other, declare(other, 1), 0, 1);
  ASSERT_EQ(workers_[busy].leases.size(), 1U);
  const PeerId producer = add_producer(1, true);
  JobSpec spec;
  spec.crash_budget = 2;
  submit(producer, declare(producer, 1, spec), 0, 3);
  pass(25s, {busy, other, producer});
  ASSERT_EQ(scheduler_->counter("leases_lost"), 1U);
  const PeerId free = add_worker(3, 3);
  EXPECT_EQ(sequences(free), (std::vector<std::uint64_t>{1, 2}));
  finish(busy, 1, 1s);
  EXPECT_EQ(sequences(busy), (std::vector<std::uint64_t>{0}));
  finish(busy, 1, 1s);
  finish(free, 2, 1s);
  EXPECT_EQ(producers_[producer].outcomes.size(), 3U);
}

// The broker before this one leased a task twice. Its first worker still has that outcome.
class TwoLeasesOfOneTask : public SchedulerTest {
 protected:
  PeerId first_reports(OutcomeStatus status) {
    const PeerId worker = add_worker(1, 1, {"f"}, held_by(kSession, 1, 0, 1));
    workers_[worker].session = kSession;
    finish(worker, HeldLease{JobId{1}, 0, 0}, 1ms, status);
    return worker;
  }
  PeerId second_reports() {
    const PeerId worker = add_worker(2, 1, {"f"}, held_by(kSession, 1, 0, 1, 1));
    workers_[worker].session = kSession;
    return worker;
  }
  PeerId resubmit() {
    const PeerId producer = add_producer(1, true);
    JobSpec spec;
    spec.retries = 1;
    submit(producer, declare(producer, 1, spec), 0, 1);
    return producer;
  }
  void expect_that_it_runs_on(PeerId first, PeerId second, PeerId producer) {
    EXPECT_TRUE(workers_[second].stopped.empty());
    EXPECT_EQ(workers_[first].acknowledged, 1U);
    pass(3s, {first, second, producer});
    EXPECT_TRUE(workers_[first].leases.empty()) << "it runs already";
    finish(second, HeldLease{JobId{1}, 0, 1});
    EXPECT_EQ(producers_[producer].outcomes.size(), 1U);
  }
  static constexpr SessionId kSession{1, 77};
};

TEST_F(TwoLeasesOfOneTask, AFailureDoesNotStopTheRunInWhichItIsTriedAgain) {
  const PeerId first = first_reports(OutcomeStatus::error);
  const PeerId second = second_reports();
  const PeerId producer = resubmit();
  expect_that_it_runs_on(first, second, producer);
}

TEST_F(TwoLeasesOfOneTask, TheRunIsReportedAfterTheProducerIsBack) {
  const PeerId first = first_reports(OutcomeStatus::error);
  const PeerId producer = resubmit();
  const PeerId second = second_reports();
  pass(1s, {first, second, producer});
  expect_that_it_runs_on(first, second, producer);
}

TEST_F(TwoLeasesOfOneTask, AResultIsNotComputedAgain) {
  first_reports(OutcomeStatus::result);
  const PeerId second = second_reports();
  EXPECT_EQ(workers_[second].stopped.size(), 1U);
  EXPECT_EQ(producers_[resubmit()].outcomes.size(), 1U);
}

}  // namespace
}  // namespace muster
