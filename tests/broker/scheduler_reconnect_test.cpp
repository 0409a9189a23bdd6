// Stories about peers that come back: what was said on two connections, and who hears the end.
#include "tests/broker/environment.hpp"

namespace muster {
namespace {

std::vector<message::HeldLeases> held_by(const SessionId& session, std::uint32_t job,
                                         std::uint64_t first, std::uint64_t count) {
  return {{session, JobId{job}, {{TaskSequence{first}, count, Attempt{0}}}}};
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
  pass(3s, {producer, worker});
  EXPECT_NE(find_other<message::ForgetJob>(workers_[worker].other), nullptr);
  EXPECT_TRUE(scheduler_->status(now_).jobs.empty());
}

}  // namespace
}  // namespace muster
