// Stories of what Python needs of the scheduler: interpreters, jobs with a cap, output, pool size.
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

TEST_F(SchedulerTest, PythonTasksGoToTheirInterpreterOnly) {
  const PeerId older = add_worker(1, 2, {"f"}, {}, "3.11");
  const PeerId newer = add_worker(2, 2, {"f"}, {}, "3.12");
  const PeerId none = add_worker(3, 2);
  const PeerId producer = add_producer(1);
  submit(producer, declare_python(producer, 1, "3.12"), 0, 5);
  EXPECT_EQ(workers_[newer].leases.size(), 2U);
  EXPECT_TRUE(workers_[older].leases.empty() && workers_[none].leases.empty());
  submit(producer, declare_python(producer, 2, "3.11"), 0, 5);
  EXPECT_EQ(workers_[older].leases.size(), 2U);
  EXPECT_TRUE(workers_[none].leases.empty());
  const auto* told = find_other<message::WorkerJob>(workers_[newer].other);
  ASSERT_NE(told, nullptr);
  EXPECT_EQ(told->spec.function.body.bytes.text(), "pickled");
}

TEST_F(SchedulerTest, ALabelDoesNotDecideWhoRunsAPythonTask) {
  const PeerId worker = add_worker(1, 1, {"label"});
  const PeerId producer = add_producer(1);
  submit(producer, declare_python(producer, 1, "3.11"), 0, 1);
  EXPECT_TRUE(workers_[worker].leases.empty());
  const PeerId right = add_worker(2, 1, {}, {}, "3.11");
  EXPECT_EQ(workers_[right].leases.size(), 1U)
      << "one of its kind came: the cached answer is stale";
}

TEST_F(SchedulerTest, AMissingInterpreterIsExplainedThenGivenUp) {
  const PeerId worker = add_worker(1, 2, {"f"}, {}, "3.11");
  const PeerId producer = add_producer(1);
  submit(producer, declare_python(producer, 1, "3.12"), 0, 2);
  pass(1s, {worker, producer});
  ASSERT_FALSE(producers_[producer].notices.empty());
  const std::string notice = producers_[producer].notices.back();
  for (const char* part : {"Python 3.12", "3.11 on node", "start the client with Python 3.11",
                           "install Python 3.12", "--python"}) {
    EXPECT_NE(notice.find(part), std::string::npos) << notice;
  }
  pass(3s, {worker, producer});
  ASSERT_EQ(producers_[producer].outcomes.size(), 2U);
  const auto failure = decode_failure(producers_[producer].outcomes[0].second.body.bytes);
  EXPECT_EQ(failure.kind, "wrong_interpreter");
  EXPECT_EQ(failure.message, notice);
}

TEST_F(SchedulerTest, RefusesPythonJobsWithoutInterpreterAndOthersWithOne) {
  const PeerId first = add_producer(1);
  declare_python(first, 1, "");
  ASSERT_NE(find_other<message::Refuse>(producers_[first].other), nullptr);
  EXPECT_EQ(find_other<message::Refuse>(producers_[first].other)->code,
            message::RefuseCode::malformed);
  const PeerId second = add_producer(2);
  JobSpec spec;
  spec.function = {FunctionKind::native, "f", "3.11"};
  declare(second, 1, spec);
  EXPECT_NE(find_other<message::Refuse>(producers_[second].other), nullptr);
}

class CappedJobTest : public SchedulerTest {
 protected:
  JobId declare_capped(PeerId producer, std::uint32_t job, std::uint32_t cap,
                       std::int32_t priority = 0) {
    JobSpec spec;
    spec.max_running = cap;
    spec.priority = priority;
    return declare(producer, job, spec);
  }
  std::size_t leases_of(PeerId worker, JobId job) {
    const auto& leases = workers_[worker].leases;
    return static_cast<std::size_t>(std::count_if(
        leases.begin(), leases.end(), [&](const HeldLease& lease) { return lease.job == job; }));
  }
};

TEST_F(CappedJobTest, NeverHasMoreLeasesThanItsCapAndStallsNobody) {
  const PeerId worker = add_worker(1, 4);
  const PeerId producer = add_producer(1);
  const JobId capped = declare_capped(producer, 1, 2, 5);
  const JobId other = declare(producer, 2);
  submit(producer, capped, 0, 50);
  submit(producer, other, 0, 50);
  EXPECT_EQ(leases_of(worker, capped), 2U);
  EXPECT_EQ(leases_of(worker, other), 2U) << "the more urgent job waits for its cap, not this one";
  for (int i = 0; i < 60; ++i) {
    finish(worker, 1, 5us);  // short: hundreds are leased ahead, but not of the capped job
    EXPECT_LE(leases_of(worker, capped), 2U);
  }
  while (!workers_[worker].leases.empty()) finish(worker, 1, 5us);
  EXPECT_EQ(producers_[producer].outcomes.size(), 100U);
}

TEST_F(CappedJobTest, SpreadsItsFewLeasesOverIdleWorkers) {
  const PeerId first = add_worker(1, 1);
  const PeerId second = add_worker(2, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare_capped(producer, 1, 2);
  submit(producer, job, 0, 1);
  const PeerId had = workers_[first].leases.empty() ? second : first;
  finish(had, 1, 5us);  // learned: short
  submit(producer, job, 1, 50);
  EXPECT_EQ(workers_[first].leases.size(), 1U);
  EXPECT_EQ(workers_[second].leases.size(), 1U);
}

TEST_F(CappedJobTest, EveryEndOfALeaseMakesRoom) {
  const PeerId worker = add_worker(1, 4);
  const PeerId producer = add_producer(1);
  const JobId job = declare_capped(producer, 1, 1);
  submit(producer, job, 0, 10);
  send(producer, message::Cancel{job, {{TaskSequence{0}, 1}}});
  finish(worker, workers_[worker].leases.front(), 1ms, OutcomeStatus::cancelled);
  workers_[worker].leases.pop_front();
  EXPECT_EQ(sequences(worker), (std::vector<std::uint64_t>{1}));
  const HeldLease lease = workers_[worker].leases.front();
  workers_[worker].leases.clear();
  send(worker, message::Returned{workers_[worker].session,
                                 job,
                                 {{TaskSequence{lease.sequence}, 1, Attempt{lease.attempt}}}});
  EXPECT_EQ(workers_[worker].leases.front(), (HeldLease{job, 1, 1}));
  const PeerId other = add_worker(2, 4);
  send(worker, message::Goodbye{});
  EXPECT_EQ(workers_[other].leases.front(), (HeldLease{job, 1, 2}));
}

TEST_F(CappedJobTest, ALastChanceCountsToo) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.max_running = 1;
  spec.crash_budget = 2;
  const JobId job = declare(producer, 1, spec);
  submit(producer, job, 0, 3);
  pass(11s, {producer});  // the worker is silent: its task has one more chance, alone
  const PeerId next = add_worker(2, 2);
  submit(producer, declare(producer, 2), 0, 4);
  for (int i = 0; i < 7; ++i) {
    EXPECT_LE(leases_of(next, job), 1U);
    finish(next, 1, 10ms);
  }
  EXPECT_EQ(producers_[producer].outcomes.size(), 7U);
  EXPECT_EQ(workers_[worker].leases.size(), 1U);
}

TEST_F(CappedJobTest, AWorkerThatIsFreeForALastChanceWaitsForTheCap) {
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.max_running = 1;
  spec.crash_budget = 2;
  add_worker(1, 1);
  const JobId job = declare(producer, 1, spec);
  submit(producer, job, 0, 2);
  const PeerId own = add_worker(2, 1);
  submit(producer, declare(producer, 2), 0, 1);
  pass(11s, {own, producer});
  ASSERT_EQ(scheduler_->counter("leases_lost"), 1U);
  ASSERT_EQ(leases_of(own, JobId{2}), 1U);
  const PeerId other = add_worker(3, 1);
  ASSERT_EQ(sequences(other), (std::vector<std::uint64_t>{1}));
  finish(own, 1, 1s);
  EXPECT_TRUE(workers_[own].leases.empty());
  finish(other, 1, 1s);
  EXPECT_EQ(leases_of(own, job) + leases_of(other, job), 1U);
}

TEST_F(SchedulerTest, OutputGoesToWhoAskedForIt) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.forward_output = true;
  const JobId loud = declare(producer, 1, spec);
  const JobId quiet = declare(producer, 2);
  say(worker, producer, loud, 2, 7);
  say(worker, producer, quiet, 2);
  say(worker, producer, JobId{9}, 2);
  ASSERT_EQ(producers_[producer].outputs.size(), 1U);
  const message::Output& output = producers_[producer].outputs[0];
  EXPECT_EQ(output.job, loud);
  EXPECT_EQ(output.node, "node");
  EXPECT_EQ(output.dropped, 7U);
  ASSERT_EQ(output.lines.size(), 2U);
  EXPECT_EQ(output.lines[0].text, "lllll");
  disconnect(producer);
  say(worker, producer, loud, 2);
  EXPECT_EQ(producers_[producer].outputs.size(), 1U);
  EXPECT_EQ(find_other<message::Refuse>(workers_[worker].other), nullptr);
}

TEST_F(SchedulerTest, OutputNeverFillsThePipeOfAProducerThatDoesNotRead) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.forward_output = true;
  const JobId job = declare(producer, 1, spec);
  for (int i = 0; i < 40; ++i) say(worker, producer, job, 1024, 0, 1024);
  const std::size_t heard = producers_[producer].outputs.size();
  EXPECT_LT(heard, 20U) << "about 16 MiB may be unread";
  send(producer, message::Heartbeat{0, false});
  say(worker, producer, job, 1);
  ASSERT_EQ(producers_[producer].outputs.size(), heard + 1);
  EXPECT_EQ(producers_[producer].outputs.back().dropped, (40 - heard) * 1024) << "counted";
  say(worker, producer, job, 1);
  EXPECT_EQ(producers_[producer].outputs.back().dropped, 0U);
}

TEST_F(SchedulerTest, ProducersKnowThePoolsSize) {
  const PeerId producer = add_producer(1);
  using Pools = std::vector<message::Pool>;
  EXPECT_EQ(producers_[producer].pools, (Pools{{0, 0}}));
  const PeerId first = add_worker(1, 2);
  const PeerId second = add_worker(2, 4);
  EXPECT_EQ(producers_[producer].pools, (Pools{{0, 0}, {2, 1}, {6, 2}}));
  EXPECT_EQ(producers_[add_producer(2)].pools, (Pools{{6, 2}}));
  producers_[producer].pools.clear();
  submit(producer, declare(producer, 1), 0, 10);
  EXPECT_TRUE(producers_[producer].pools.empty());
  send(second, message::WorkerState{0, true});
  disconnect(first);
  EXPECT_EQ(producers_[producer].pools, (Pools{{2, 1}, {0, 0}}));
  EXPECT_EQ(scheduler_->status(now_).total_slots, 0U);
}

}  // namespace
}  // namespace muster
