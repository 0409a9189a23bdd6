// Stories of the scheduler in good times: leasing, order, prefetch, fairness, priorities, recall.
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

TEST_F(SchedulerTest, LeasesInSubmissionOrderUpToTheSlots) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 5);
  EXPECT_EQ(sequences(worker), (std::vector<std::uint64_t>{0, 1}));
  finish(worker, 1, 10s);
  EXPECT_EQ(sequences(worker), (std::vector<std::uint64_t>{1, 2}));
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(producers_[producer].outcomes[0].second.body.bytes.text(), "r0");
  EXPECT_EQ(workers_[worker].acknowledged, 1U);
}

TEST_F(SchedulerTest, AcknowledgementsWaitForTasksThatGoTheSameWay) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 1);
  finish(worker, 1);
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U) << "the outcome itself never waits";
  EXPECT_EQ(workers_[worker].acknowledged, 0U);
  submit(producer, job, 1, 1);
  EXPECT_EQ(workers_[worker].acknowledged, 1U) << "beside the next task";
  finish(worker, 1);
  EXPECT_EQ(workers_[worker].acknowledged, 1U);
  EXPECT_LE(scheduler_->next_deadline(), now_ + limits::kAcknowledgementWindow);
  pass(limits::kAcknowledgementWindow, {worker, producer});
  EXPECT_EQ(workers_[worker].acknowledged, 2U) << "or by itself";
}

TEST_F(SchedulerTest, PrefetchesShortTasksAndNeverLongOnes) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  const JobId quick = declare(producer, 1);
  submit(producer, quick, 0, 1000);
  finish(worker, 1, 2us);
  EXPECT_GT(workers_[worker].leases.size(), 100U) << "microsecond tasks travel by the hundred";
  const PeerId other = add_producer(2);
  const JobId slow = declare(other, 1);
  while (!workers_[worker].leases.empty()) finish(worker, 1, 2us);
  submit(other, slow, 0, 100);
  ASSERT_EQ(workers_[worker].leases.size(), 2U);
  finish(worker, 1, 60s);
  EXPECT_EQ(workers_[worker].leases.size(), 2U) << "an hour-long task must not wait behind another";
}

TEST_F(SchedulerTest, PrefersTheLeastLoadedWorkerRelativeToItsSlots) {
  const PeerId small = add_worker(1, 1);
  const PeerId large = add_worker(2, 4);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 5);
  EXPECT_EQ(workers_[small].leases.size(), 1U);
  EXPECT_EQ(workers_[large].leases.size(), 4U);
}

TEST_F(SchedulerTest, SharesSlotsBetweenSessionsWhateverTheirNumberOfJobs) {
  const PeerId worker = add_worker(1, 1);
  const PeerId many = add_producer(1);
  const PeerId few = add_producer(2);
  for (std::uint32_t job = 1; job <= 4; ++job) submit(many, declare(many, job), 0, 200);
  submit(few, declare(few, 1), 0, 200);
  for (int i = 0; i < 200; ++i) finish(worker, 1, 10ms);
  const auto share = static_cast<double>(producers_[few].outcomes.size());
  EXPECT_NEAR(share, 100, 25) << "one job of one session weighs as much as four of another";
}

TEST_F(SchedulerTest, RunsHigherPrioritiesFirst) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 3);
  JobSpec urgent;
  urgent.priority = 5;
  submit(producer, declare(producer, 2, urgent), 0, 2);
  finish(worker, 1, 10s);
  EXPECT_EQ(workers_[worker].leases.front().job, JobId{2});
  finish(worker, 1, 10s);
  EXPECT_EQ(workers_[worker].leases.front().job, JobId{2});
  finish(worker, 1, 10s);
  EXPECT_EQ(workers_[worker].leases.front().job, JobId{1});
}

TEST_F(SchedulerTest, IdleSlotsTakeBackWhatHasNotStarted) {
  const PeerId busy = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 400);
  finish(busy, 1, 5us);  // learned: short, so hundreds are leased ahead
  const std::size_t ahead = workers_[busy].leases.size();
  ASSERT_GT(ahead, 50U);
  finish(busy, 1, 400ms);  // not so short after all
  const PeerId idle = add_worker(2, 1);
  while (!workers_[idle].leases.empty()) finish(idle, 1, 200ms);
  ASSERT_FALSE(workers_[busy].recalled.empty()) << "an idle slot watches a queue elsewhere";
  const HeldLease back = workers_[busy].recalled.front();
  EXPECT_EQ(back.sequence, workers_[busy].leases.back().sequence) << "the last to start goes first";
  send(busy,
       message::Returned{
           workers_[busy].session, job, {{TaskSequence{back.sequence}, 1, Attempt{back.attempt}}}});
  ASSERT_EQ(workers_[idle].leases.size(), 1U);
  EXPECT_EQ(workers_[idle].leases.front(), (HeldLease{job, back.sequence, back.attempt + 1}));
}

TEST_F(SchedulerTest, IdleSlotsTakeBackEvenOneLeaseBehindManySlots) {
  const PeerId busy = add_worker(1, 16);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 1);
  finish(busy, 1, 500ms);  // learned: long, so one is leased ahead
  submit(producer, job, 1, 17);
  ASSERT_EQ(workers_[busy].leases.size(), 17U);
  add_worker(2, 16);
  ASSERT_EQ(workers_[busy].recalled.size(), 1U) << "a whole task's time would be lost";
}

TEST_F(SchedulerTest, ForgetsWhatTheProducerAcknowledged) {
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 2);
  finish(worker, 2);
  EXPECT_EQ(scheduler_->tasks_held(), 2U);
  send(producer, message::AcknowledgeOutcomes{job, {{TaskSequence{0}, 2}}});
  EXPECT_EQ(scheduler_->tasks_held(), 0U);
  send(producer, message::EndJob{job});
  EXPECT_NE(find_other<message::ForgetJob>(workers_[worker].other), nullptr);
  EXPECT_TRUE(scheduler_->status(now_).jobs.empty());
}

TEST_F(SchedulerTest, StopsLeasingForAProducerThatDoesNotAcknowledge) {
  options_.credit_tasks = 4;
  restart();
  const PeerId worker = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  for (std::uint64_t sequence = 0; sequence < 5; ++sequence) {
    submit(producer, job, sequence, 1);
    finish(worker, 1);
  }
  submit(producer, job, 5, 1);
  EXPECT_TRUE(workers_[worker].leases.empty()) << "five outcomes wait for a producer of credit 4";
  send(producer, message::AcknowledgeOutcomes{job, {{TaskSequence{0}, 5}}});
  EXPECT_EQ(sequences(worker), (std::vector<std::uint64_t>{5}));
}

TEST_F(SchedulerTest, StatusNamesWorkersAndJobs) {
  const PeerId worker = add_worker(1, 3);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 10);
  finish(worker, 1, 10s);
  send(producer, message::StatusRequest{});
  const auto* status = find_other<message::Status>(producers_[producer].other);
  ASSERT_NE(status, nullptr);
  EXPECT_EQ(status->total_slots, 3U);
  ASSERT_EQ(status->workers.size(), 1U);
  EXPECT_EQ(status->workers[0].leases, 3U);
  EXPECT_EQ(status->workers[0].tasks_done, 1U);
  ASSERT_EQ(status->jobs.size(), 1U);
  EXPECT_EQ(status->jobs[0].queued, 6U);
  EXPECT_EQ(status->jobs[0].done, 1U);
  EXPECT_EQ(status->jobs[0].mean_us, 10'000'000U);
}

TEST_F(SchedulerTest, AStuckSlotGetsNoWork) {
  const PeerId worker = add_worker(1, 2);
  send(worker, message::WorkerState{1, false});
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 5);
  EXPECT_EQ(workers_[worker].leases.size(), 1U);
  send(worker, message::WorkerState{2, false});
  finish(worker, 1, 10s);
  EXPECT_TRUE(workers_[worker].leases.empty());
  pass(1s, {worker, producer});
  ASSERT_FALSE(producers_[producer].notices.empty());
  EXPECT_NE(producers_[producer].notices.back().find("no slot is free: 2"), std::string::npos)
      << producers_[producer].notices.back();
  send(worker, message::WorkerState{0, false});
  EXPECT_EQ(workers_[worker].leases.size(), 2U);
}

TEST_F(SchedulerTest, ADrainingWorkerGetsNoMore) {
  const PeerId worker = add_worker(1, 2);
  send(worker, message::WorkerState{0, true});
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 5);
  EXPECT_TRUE(workers_[worker].leases.empty());
  EXPECT_EQ(scheduler_->status(now_).total_slots, 0U);
}

}  // namespace
}  // namespace muster
