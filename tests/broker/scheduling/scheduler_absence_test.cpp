// Stories of producers that fall silent: stopped ones keep all they have, dead ones do not.
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

class SchedulerAbsence : public SchedulerTest {
 protected:
  SchedulerAbsence() {
    worker_ = add_worker(1, 2);
    producer_ = add_producer(1);
    job_ = declare(producer_, 1);
    submit(producer_, job_, 0, 2);
  }
  std::size_t count(PeerId peer, std::string_view name) {
    std::size_t count = 0;
    for (const Message& message : producers_[peer].other) count += name_of(message) == name ? 1 : 0;
    return count;
  }

  PeerId worker_{};
  PeerId producer_{};
  JobId job_{};
};

TEST_F(SchedulerAbsence, AStoppedProducerKeepsItsTasksAsLongAsItsConnectionLives) {
  pass(1h, {worker_});
  EXPECT_EQ(scheduler_->counter("producers_silent"), 1U);
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 0U);
  EXPECT_TRUE(workers_[worker_].stopped.empty());
  finish(worker_, 2);
  EXPECT_TRUE(producers_[producer_].outcomes.empty()) << "it would not read them";
  producers_[producer_].other.clear();
  send(producer_, message::Heartbeat{});  // it goes on
  EXPECT_EQ(count(producer_, "UNKNOWN"), 1U);
  message::HelloProducer hello;
  hello.session = producers_[producer_].id;
  hello.resuming = true;
  send(producer_, hello);
  EXPECT_EQ(producers_[producer_].outcomes.size(), 2U);
  pass(1min, {worker_, producer_});
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 0U);
  EXPECT_EQ(scheduler_->counter("producers_silent"), 1U);
}

TEST_F(SchedulerAbsence, AStoppedProducerIsToldLittle) {
  pass(11s, {worker_});
  producers_[producer_].other.clear();
  pass(1h, {worker_});
  EXPECT_LE(count(producer_, "HEARTBEAT"), 360U);
  EXPECT_EQ(producers_[producer_].other.size(), count(producer_, "HEARTBEAT"));
  producers_[producer_].other.clear();
  for (int i = 0; i < 1000; ++i) send(producer_, message::Heartbeat{});
  EXPECT_EQ(producers_[producer_].other.size(), 1U) << "UNKNOWN, once in a while";
}

TEST_F(SchedulerAbsence, AProducerThatComesByAnotherConnectionFindsWhatItHad) {
  pass(2min, {worker_});
  const PeerId back = add_producer(1, true);
  finish(worker_, 2);
  EXPECT_EQ(producers_[back].outcomes.size(), 2U);
  disconnect(producer_);  // the old connection's end means nothing any more
  pass(2min, {worker_, back});
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 0U);
}

TEST_F(SchedulerAbsence, TheGraceBeginsWhenTheConnectionEnds) {
  pass(10min, {worker_});
  disconnect(producer_);  // the next heartbeat found nobody
  pass(59s, {worker_});
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 0U);
  pass(2s, {worker_});
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 1U);
  EXPECT_EQ(scheduler_->tasks_held(), 0U);
}

TEST_F(SchedulerAbsence, AProducerThatDoesNotReadIsASilentOne) {
  EXPECT_TRUE(scheduler_->not_reading(producer_, now_));
  EXPECT_FALSE(scheduler_->not_reading(producer_, now_));
  scheduler_->check_invariants();
  pass(10min, {worker_});
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 0U);
  finish(worker_, 2);
  const PeerId back = add_producer(1, true);
  EXPECT_EQ(producers_[back].outcomes.size(), 2U);
}

TEST_F(SchedulerAbsence, AWorkerThatDoesNotReadIsOutOfSight) {
  EXPECT_TRUE(scheduler_->not_reading(worker_, now_));
  scheduler_->check_invariants();
  pass(11s, {producer_});
  EXPECT_EQ(scheduler_->counter("workers_lost"), 1U);
}

// The broker stood still, while a producer was away and its grace ran.
TEST_F(SchedulerAbsence, ABrokersOwnStandstillIsNobodysAbsence) {
  disconnect(producer_);
  pass(50s, {worker_});
  now_ += 8h;
  pass(5s, {worker_});
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 0U);
  pass(10s, {worker_});
  EXPECT_EQ(scheduler_->counter("sessions_expired"), 1U);
}

// What waited in its sockets is read before anybody is judged, and counts from then on.
TEST_F(SchedulerAbsence, AStandstillDoesNotHideALaterDeath) {
  now_ += 8h;
  send(worker_, message::Heartbeat{});
  pass(12s, {producer_});
  EXPECT_EQ(scheduler_->counter("workers_lost"), 1U);
}

}  // namespace
}  // namespace muster
