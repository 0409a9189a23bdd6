// Stories about peers that come back: what was said on two connections, and who hears the end.
#include "tests/broker/environment.hpp"

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
