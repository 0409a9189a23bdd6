// What the scheduler keeps of peers that ask for much: little, whatever they say.
#include <malloc.h>

#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

// Bytes that are allocated now. 0 where a sanitizer has replaced the allocator.
std::size_t allocated_bytes() {
  const auto all = mallinfo2();
  return all.uordblks + all.hblkhd;  // large ones are mapped, each for itself
}

class SchedulerMemoryTest : public SchedulerTest {
 protected:
  static constexpr std::uint64_t kTasks = 5'000;

  void submit_many(PeerId producer, JobId job) {
    for (std::uint64_t first = 0; first < kTasks; first += 1000) submit(producer, job, first, 1000);
  }
};

TEST_F(SchedulerMemoryTest, TasksThatEndForOneReasonShareOneFailure) {
  options_.no_worker_timeout = 5s;
  restart();
  const PeerId producer = add_producer(1);
  submit_many(producer, declare(producer, 1));
  disconnect(producer);  // what has ended stays at the broker
  const std::size_t queued = allocated_bytes();
  pass(7s);
  ASSERT_EQ(scheduler_->counter("jobs_given_up"), 1U);
  EXPECT_LT(allocated_bytes(), queued + kTasks * 16);

  add_producer(1);
  const auto& outcomes = producers_.rbegin()->second.outcomes;
  ASSERT_EQ(outcomes.size(), kTasks);
  EXPECT_EQ(decode_failure(outcomes.front().second.body.bytes).kind, "no_worker");
  EXPECT_EQ(outcomes.front().second.body.bytes, outcomes.back().second.body.bytes);
}

TEST_F(SchedulerMemoryTest, EachReasonHasAFailureOfItsOwn) {
  options_.no_worker_timeout = 5s;
  restart();
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 2);
  send(producer, message::Cancel{job, {{TaskSequence{1}, 1}}});
  pass(7s, {producer});
  const auto& outcomes = producers_.at(producer).outcomes;
  ASSERT_EQ(outcomes.size(), 2U);
  EXPECT_EQ(outcomes[0].second.status, OutcomeStatus::cancelled);
  EXPECT_EQ(decode_failure(outcomes[0].second.body.bytes).kind, "cancelled");
  EXPECT_EQ(outcomes[1].second.status, OutcomeStatus::error);
  EXPECT_EQ(decode_failure(outcomes[1].second.body.bytes).kind, "no_worker");
}

// --- Gaps

TEST_F(SchedulerMemoryTest, SkippedTasksTakeNoMemory) {
  const PeerId producer = add_producer(1);
  const std::size_t before = allocated_bytes();
  for (std::uint32_t job = 1; job <= 12; ++job) {
    declare(producer, job);
    submit(producer, JobId{job}, 0, 1);
    submit(producer, JobId{job}, std::uint64_t{1} << 50, 1);
  }
  EXPECT_LT(allocated_bytes(), before + (std::size_t{2} << 20));
  const PeerId worker = add_worker(1, 24);
  EXPECT_EQ(workers_.at(worker).leases.size(), 24U);
  EXPECT_EQ(sequences(worker)[1], std::uint64_t{1} << 50);
}

TEST_F(SchedulerMemoryTest, TasksBehindGapsAreLikeOthers) {
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  std::vector<std::uint64_t> expected;
  std::uint64_t first = 100;  // gaps within a chunk of the window, across some, and whole ones
  for (const std::uint64_t gap : {1U, 100U, 127U, 128U, 129U, 1000U, 12'800U, 7U}) {
    submit(producer, job, first, 3);
    for (std::uint64_t i = 0; i < 3; ++i) expected.push_back(first + i);
    first += 3 + gap;
  }
  send(producer, message::Cancel{job, {{TaskSequence{104}, 1}}});
  std::erase(expected, 104);
  const PeerId worker = add_worker(1, 100);
  EXPECT_EQ(sequences(worker), expected);
  send(producer, message::Cancel{job, {{TaskSequence{0}, 20'000}}});
  EXPECT_EQ(workers_.at(worker).stopped.size(), expected.size());

  finish(worker, expected.size());
  EXPECT_EQ(producers_.at(producer).outcomes.size(), expected.size() + 1);
  disconnect(producer);
  const PeerId again = add_producer(1);  // all is said again, and acknowledged in one range
  EXPECT_EQ(producers_.at(again).outcomes.size(), expected.size() + 1);
  send(again, message::AcknowledgeOutcomes{job, {{TaskSequence{0}, first}}});
  EXPECT_EQ(scheduler_->tasks_held(), 0U);
  submit(again, job, first + 5, 1);
  EXPECT_EQ(sequences(worker), std::vector{first + 5});
}

TEST_F(SchedulerMemoryTest, GapsOfManyTasksAreRefused) {
  options_.credit_tasks = 1000;
  restart();
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  std::uint64_t first = 0;
  while (find_other<message::Refuse>(producers_.at(producer).other) == nullptr) {
    ASSERT_LT(first, 200U * 256);
    submit(producer, job, first, 1);
    first += 128 + 127;  // as much of two chunks as there can be
  }
  EXPECT_EQ(scheduler_->tasks_held(), 0U);
}

// A list of ranges may name every task many times.
TEST_F(SchedulerMemoryTest, RangesThatOverlapCostNoMoreThanTheTasks) {
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit_many(producer, job);
  const std::vector<SequenceRange> ranges(60'000, {TaskSequence{0}, std::uint64_t{1} << 60});
  send(producer, message::Cancel{job, ranges});
  EXPECT_EQ(producers_.at(producer).outcomes.size(), kTasks);
  send(producer, message::AcknowledgeOutcomes{job, ranges});
  EXPECT_EQ(scheduler_->tasks_held(), 0U);
}

// --- Reports of workers about sessions that are not here

TEST_F(SchedulerMemoryTest, ReportsOfUnknownSessionsAreSmallAndReplaceEachOther) {
  const auto report = [&](std::uint64_t round) {
    message::HelloWorker hello = hello_of(1, 1);
    for (std::uint64_t i = 0; i < 30'000; ++i) {
      hello.held.push_back({{round, i + 1}, JobId{1}, {{TaskSequence{i}, 1, Attempt{0}}}});
    }
    return join(hello);
  };
  PeerId worker = report(1);  // buffers of this process have their size now
  const std::size_t one = allocated_bytes();
  for (std::uint64_t round = 2; round <= 6; ++round) {
    disconnect(worker);
    workers_.erase(worker);
    worker = report(round);
    EXPECT_LT(allocated_bytes(), one + (std::size_t{1} << 20));
  }
  EXPECT_EQ(scheduler_->status(now_).sessions, 0U);
  EXPECT_EQ(scheduler_->status(now_).workers.at(0).leases, 30'000U);
  workers_.at(worker).other.clear();
  pass(options_.session_grace + 1s, {worker});
  EXPECT_EQ(scheduler_->status(now_).workers.at(0).leases, 0U);
  EXPECT_EQ(std::count_if(workers_.at(worker).other.begin(), workers_.at(worker).other.end(),
                          [](const Message& message) {
                            return std::holds_alternative<message::ForgetJob>(message);
                          }),
            30'000);
}

TEST_F(SchedulerMemoryTest, AWorkerReportsNoMoreLeasesThanItCanHold) {
  message::HelloWorker hello = hello_of(1, 1);
  hello.held.push_back({{1, 77}, JobId{1}, {{TaskSequence{0}, 2, Attempt{0}}}});
  hello.held.push_back({{2, 77}, JobId{1}, {{TaskSequence{0}, 200'000, Attempt{0}}}});
  join(hello);
  EXPECT_EQ(scheduler_->status(now_).workers.at(0).leases, 2U);
}

// A restarted broker, and a worker that holds leases 0, 1 and 5 of a job that nobody declared yet.
class ReportedLeasesTest : public SchedulerTest {
 protected:
  ReportedLeasesTest() {
    message::HelloWorker hello = hello_of(1, 3);
    hello.held.push_back(
        {{1, 77}, JobId{1}, {{TaskSequence{0}, 2, Attempt{0}}, {TaskSequence{5}, 1, Attempt{2}}}});
    worker_ = join(hello);
    workers_.at(worker_).session = {1, 77};
  }
  void reconnect(const message::HelloWorker& hello) {
    disconnect(worker_);
    worker_ = join(hello);
    workers_.at(worker_).session = {1, 77};
  }
  std::uint64_t leases() { return scheduler_->status(now_).workers.at(0).leases; }
  // The producer comes back with six tasks.
  PeerId resubmit() {
    const PeerId producer = add_producer(1, true);
    declare(producer, 1);
    submit(producer, JobId{1}, 0, 6);
    return producer;
  }

  PeerId worker_{};
};

TEST_F(ReportedLeasesTest, AreAdoptedWhenTheProducerIsBack) {
  EXPECT_EQ(leases(), 3U);
  const PeerId producer = resubmit();
  EXPECT_EQ(scheduler_->counter("leases_adopted"), 3U);
  EXPECT_TRUE(workers_.at(worker_).leases.empty());  // its slots are taken
  for (const HeldLease& lease : {HeldLease{JobId{1}, 0, 0}, {JobId{1}, 1, 0}, {JobId{1}, 5, 2}}) {
    finish(worker_, lease);
  }
  EXPECT_EQ(producers_.at(producer).outcomes.size(), 3U);
  pass(3s, {worker_, producer});  // others may have reported the rest
  EXPECT_EQ(sequences(worker_), (std::vector<std::uint64_t>{2, 3, 4}));
}

TEST_F(ReportedLeasesTest, OutcomesBeforeTheProducerAreKept) {
  finish(worker_, HeldLease{JobId{1}, 5, 2});
  EXPECT_EQ(leases(), 2U);
  EXPECT_EQ(workers_.at(worker_).acknowledged, 0U);  // the worker keeps it as well
  const PeerId producer = resubmit();
  ASSERT_EQ(producers_.at(producer).outcomes.size(), 1U);
  EXPECT_EQ(producers_.at(producer).outcomes[0].first, 5U);
  EXPECT_EQ(scheduler_->counter("leases_adopted"), 3U);
}

TEST_F(ReportedLeasesTest, OutcomesBeforeTheProducerAreBounded) {
  message::HelloWorker hello = hello_of(1, 1);
  hello.held.push_back({{1, 77}, JobId{1}, {{TaskSequence{0}, 100, Attempt{0}}}});
  reconnect(hello);
  const Outcome large{OutcomeStatus::result, {Bytes::copy(std::string(1 << 20, 'r')), 0}};
  for (std::uint64_t i = 0; i < 100; ++i) {
    send(worker_,
         message::WorkerOutcomes{{1, 77}, JobId{1}, 1ms, {{TaskSequence{i}, Attempt{0}, {large}}}});
  }
  EXPECT_EQ(scheduler_->counter("outcomes_early_dropped"), 37U);
  EXPECT_EQ(leases(), 0U);
  pass(1s, {worker_});
  EXPECT_EQ(workers_.at(worker_).acknowledged, 37U);  // the worker forgets those
  const PeerId producer = add_producer(1, true);
  declare(producer, 1);
  submit(producer, JobId{1}, 0, 100);
  EXPECT_EQ(producers_.at(producer).outcomes.size(), 63U);
  pass(3s, {worker_, producer});
  EXPECT_EQ(sequences(worker_), (std::vector<std::uint64_t>{63, 64, 65}));  // they run again
}

TEST_F(ReportedLeasesTest, ThoseThatTheWorkerGivesBackRunElsewhere) {
  send(worker_, message::Returned{{1, 77}, JobId{1}, {{TaskSequence{1}, 6, Attempt{2}}}});
  EXPECT_EQ(leases(), 2U);  // of another attempt than 1, and not the others'
  send(worker_, message::Returned{{1, 77}, JobId{1}, {{TaskSequence{1}, 1, Attempt{0}}}});
  EXPECT_EQ(leases(), 1U);
  resubmit();
  EXPECT_EQ(scheduler_->counter("leases_adopted"), 1U);
}

TEST_F(ReportedLeasesTest, AWorkerThatGivesAllOfThemBackForgetsTheJob) {
  send(worker_, message::Returned{{1, 77}, JobId{1}, {{TaskSequence{0}, 2, Attempt{0}}}});
  EXPECT_EQ(find_other<message::ForgetJob>(workers_.at(worker_).other), nullptr);
  send(worker_, message::Returned{{1, 77}, JobId{1}, {{TaskSequence{5}, 1, Attempt{2}}}});
  EXPECT_NE(find_other<message::ForgetJob>(workers_.at(worker_).other), nullptr);
}

// Nobody honest says them, and whoever does confuses nobody.
TEST_F(ReportedLeasesTest, RangesThatOverlapStayInOrder) {
  message::HelloWorker hello = hello_of(1, 3);
  hello.held.push_back(
      {{1, 77}, JobId{1}, {{TaskSequence{0}, 10, Attempt{0}}, {TaskSequence{2}, 2, Attempt{1}}}});
  reconnect(hello);
  send(worker_, message::Returned{{1, 77}, JobId{1}, {{TaskSequence{1}, 4, Attempt{0}}}});
  EXPECT_EQ(leases(), 8U);
  send(worker_, message::Returned{{1, 77}, JobId{1}, {{TaskSequence{2}, 2, Attempt{1}}}});
  EXPECT_EQ(leases(), 6U);
}

TEST_F(ReportedLeasesTest, GoWithTheirWorker) {
  send(worker_, message::Goodbye{});
  resubmit();
  const PeerId other = add_worker(2, 6);
  pass(3s, {other, PeerId{2}});
  EXPECT_EQ(workers_.at(other).leases.size(), 6U);
}

// Of a session that is here, jobs that only a report names are records: they go with the report.
TEST_F(ReportedLeasesTest, JobsThatOnlyAReportNamesGoWithIt) {
  add_producer(1, true);
  for (std::uint32_t round = 0; round < 3; ++round) {
    message::HelloWorker hello = hello_of(1, 3);
    for (std::uint32_t job = 0; job < 100; ++job) {
      hello.held.push_back(
          {{1, 77}, JobId{1000 * round + job + 10}, {{TaskSequence{0}, 1, Attempt{0}}}});
    }
    reconnect(hello);
    EXPECT_EQ(scheduler_->status(now_).jobs.size(), 100U);
  }
  reconnect(hello_of(1, 3));
  EXPECT_TRUE(scheduler_->status(now_).jobs.empty());
}

}  // namespace
}  // namespace muster
