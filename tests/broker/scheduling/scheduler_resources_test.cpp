// Stories of tasks that ask for processors, memory, accelerators or labels, and of workers that
// pause.
#include "common/protocol/resources.hpp"
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

constexpr std::uint64_t kGigabyte = std::uint64_t{1} << 30;

class SchedulerResources : public SchedulerTest {
 protected:
  PeerId add_node(const std::string& name, std::uint32_t slots, std::uint64_t gigabytes = 0,
                  std::uint32_t gpus = 0, std::vector<std::string> labels = {}) {
    message::HelloWorker hello = hello_of(++last_node_, slots);
    hello.node = name;
    hello.cores = slots;
    hello.memory_bytes = gigabytes * kGigabyte;
    hello.gpus = gpus;
    hello.labels = std::move(labels);
    return join(hello);
  }
  JobId ask(PeerId producer, std::uint32_t job, Resources wanted,
            std::vector<std::string> labels = {}) {
    JobSpec spec;
    spec.resources = wanted;
    spec.labels = std::move(labels);
    return declare(producer, job, spec);
  }
  std::size_t held(PeerId worker) { return workers_.at(worker).leases.size(); }
  Failure failure(PeerId producer, std::size_t outcome) {
    return decode_failure(producers_.at(producer).outcomes.at(outcome).second.body.bytes);
  }

 private:
  std::uint64_t last_node_ = 0;
};

TEST(Resources, ATasksWidthIsItsShareOfTheSlots) {
  const Shape shape{4, 8, 16 * kGigabyte, 2};
  EXPECT_EQ(width_of({}, shape), 1U);
  EXPECT_EQ(width_of({500, 0, 0}, shape), 1U);
  EXPECT_EQ(width_of({2000, 0, 0}, shape), 1U);
  EXPECT_EQ(width_of({2001, 0, 0}, shape), 2U);
  EXPECT_EQ(width_of({8000, 0, 0}, shape), 4U);
  EXPECT_EQ(width_of({0, 4 * kGigabyte, 0}, shape), 1U);
  EXPECT_EQ(width_of({0, 4 * kGigabyte + 1, 0}, shape), 2U);
  EXPECT_EQ(width_of({2001, 9 * kGigabyte, 0}, shape), 3U);
  EXPECT_TRUE(fits({8000, 16 * kGigabyte, 2}, shape));
  EXPECT_FALSE(fits({8001, 0, 0}, shape));
  EXPECT_FALSE(fits({0, 16 * kGigabyte + 1, 0}, shape));
  EXPECT_FALSE(fits({0, 0, 3}, shape));
  EXPECT_EQ(width_of({UINT32_MAX, UINT64_MAX, UINT32_MAX}, {65536, 1, 1, 0}), 65537U);
  EXPECT_EQ(width_of({4000, 0, 0}, {4, 0, 0, 0}), 4U) << "no word of cores: one for each slot";
}

TEST_F(SchedulerResources, WideTasksTakeTheirSlotsAndOrdinaryOnesTheRest) {
  const PeerId worker = add_node("a", 4);
  const PeerId producer = add_producer(1);
  const JobId wide = ask(producer, 1, {3000, 0, 0});
  submit(producer, wide, 0, 2);
  EXPECT_EQ(held(worker), 1U);
  submit(producer, declare(producer, 2), 0, 3);
  EXPECT_EQ(held(worker), 2U) << "three slots and one";
  finish(worker, HeldLease{wide, 0, 0});
  EXPECT_EQ(scheduler_->counter("tasks_retried"), 0U);
  EXPECT_GE(held(worker), 3U);
}

TEST_F(SchedulerResources, GpusAreCountedExactly) {
  const PeerId plain = add_node("plain", 8);
  const PeerId worker = add_node("gpus", 8, 0, 2);
  const PeerId producer = add_producer(1);
  const JobId job = ask(producer, 1, {0, 0, 1});
  submit(producer, job, 0, 3);
  EXPECT_EQ(held(plain), 0U);
  EXPECT_EQ(sequences(worker), (std::vector<std::uint64_t>{0, 1}));
  finish(worker, 1);
  EXPECT_EQ(sequences(worker), (std::vector<std::uint64_t>{1, 2}));
}

TEST_F(SchedulerResources, OnlyWorkersWithAllLabelsGetTheTasks) {
  const PeerId plain = add_node("plain", 4);
  const PeerId half = add_node("half", 4, 0, 0, {"fast"});
  const PeerId both = add_node("both", 4, 0, 0, {"ours", "fast"});
  const PeerId producer = add_producer(1);
  submit(producer, ask(producer, 1, {}, {"fast", "ours"}), 0, 3);
  EXPECT_EQ(held(both), 3U);
  EXPECT_EQ(held(plain) + held(half), 0U);
  submit(producer, ask(producer, 2, {}, {"absent"}), 0, 1);
  pass(1s, {producer, plain, half, both});
  EXPECT_NE(producers_[producer].notices.back().find("labels absent (workers have: fast, ours)"),
            std::string::npos)
      << producers_[producer].notices.back();
  pass(3s, {producer, plain, half, both});
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(failure(producer, 0).kind, "no_worker");
}

TEST_F(SchedulerResources, WhatFitsNowhereEndsWithTheLargestWorkersName) {
  const PeerId small = add_node("node3", 4, 16);
  const PeerId large = add_node("node7", 8, 32, 1);
  const PeerId producer = add_producer(1);
  submit(producer, ask(producer, 1, {0, 64 * kGigabyte, 0}), 0, 1);
  submit(producer, ask(producer, 2, {16'000, 0, 0}), 0, 1);
  submit(producer, ask(producer, 3, {0, 0, 2}), 0, 1);
  EXPECT_TRUE(producers_[producer].outcomes.empty()) << "another worker may come";
  pass(4s, {producer, small, large});
  ASSERT_EQ(producers_[producer].outcomes.size(), 3U);
  std::string text;
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(failure(producer, i).kind, "no_worker");
    text += failure(producer, i).message + "\n";
  }
  EXPECT_NE(text.find("no worker has 64 GB for one task; the largest, node7, has 32 GB"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("no worker has 16 cores for one task; the largest, node7, has 8 cores"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("no worker has 2 GPUs for one task; the largest, node7, has 1"),
            std::string::npos)
      << text;
}

TEST_F(SchedulerResources, ALateWorkerThatIsLargeEnoughGetsTheTask) {
  const PeerId producer = add_producer(1);
  add_node("small", 2);
  submit(producer, ask(producer, 1, {4000, 0, 0}), 0, 1);
  const PeerId large = add_node("large", 4);
  EXPECT_EQ(held(large), 1U);
}

// Tasks of a millisecond keep every slot and its prefetch busy for ever.
TEST_F(SchedulerResources, AWideTaskGetsItsSlotsOnABusyPool) {
  const std::vector<PeerId> nodes = {add_node("a", 4), add_node("b", 4)};
  const PeerId busy = add_producer(1);
  const PeerId producer = add_producer(2);
  const JobId flood = declare(busy, 1);
  for (std::uint64_t first = 0; first < 5000; first += 500) submit(busy, flood, first, 500);
  for (const PeerId node : nodes) finish(node, 4);  // learned: they are short
  const JobId wide = ask(producer, 1, {4000, 0, 0});
  submit(producer, wide, 0, 1);
  const auto has_wide = [&](PeerId node) {
    const auto& leases = workers_.at(node).leases;
    return leases.size() == 1 && workers_.at(node).session == producers_.at(producer).id;
  };
  int turns = 0;
  while (!has_wide(nodes[0]) && !has_wide(nodes[1]) && ++turns < 400) {
    for (const PeerId node : nodes) {
      if (!workers_[node].leases.empty() && !has_wide(node)) finish(node, 1);
    }
    pass(10ms, {busy, producer, nodes[0], nodes[1]});
  }
  EXPECT_LT(turns, 400);
  EXPECT_EQ(scheduler_->counter("workers_reserved"), 1U);
  const PeerId home = has_wide(nodes[0]) ? nodes[0] : nodes[1];
  const std::size_t before = held(home);
  finish(home, 1);
  pass(3s, {busy, producer, nodes[0], nodes[1]});
  EXPECT_GE(held(home), before) << "it serves the others again";
}

TEST_F(SchedulerResources, AWaitingWideTaskSaysWhatItWaitsFor) {
  const PeerId worker = add_node("a", 4);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 1);
  submit(producer, ask(producer, 2, {4000, 0, 0}), 0, 1);
  pass(1s, {worker, producer});
  EXPECT_NE(producers_[producer].notices.back().find("until one worker has 4 slots free"),
            std::string::npos);
  EXPECT_NE(producers_[producer].notices.back().find("a is kept free for it"), std::string::npos);
  finish(worker, 1);
  EXPECT_EQ(held(worker), 1U);
}

TEST_F(SchedulerResources, APausedWorkerGetsNothingUntilItGoesOn) {
  const PeerId worker = add_node("laptop", 2);
  const PeerId producer = add_producer(1);
  send(worker, message::WorkerState{0, false, "others keep 3.2 cores busy (limit 2)"});
  submit(producer, declare(producer, 1), 0, 2);
  EXPECT_EQ(held(worker), 0U);
  pass(1s, {worker, producer});
  EXPECT_NE(producers_[producer].notices.back().find("laptop: others keep 3.2 cores busy"),
            std::string::npos);
  const message::Status status = scheduler_->status(now_);
  EXPECT_EQ(status.workers.at(0).paused, "others keep 3.2 cores busy (limit 2)");
  EXPECT_EQ(status.total_slots, 2U);
  send(worker, message::WorkerState{0, false, ""});
  EXPECT_EQ(held(worker), 2U);
}

TEST_F(SchedulerResources, AWideTaskOnItsLastRunGetsAWorkerWhereItFits) {
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.resources = {4000, 0, 0};
  spec.crash_budget = 2;
  const JobId job = declare(producer, 1, spec);
  const PeerId small = add_node("small", 2);
  add_node("large", 4);
  submit(producer, job, 0, 1);
  pass(11s, {producer, small});
  EXPECT_EQ(scheduler_->counter("leases_lost"), 1U);
  EXPECT_EQ(held(small), 0U);
  const PeerId next = add_node("next", 4);
  EXPECT_EQ(held(next), 1U);
}

// A broker that restarts learns of wide leases from the worker and counts them.
TEST_F(SchedulerResources, AdoptedWideLeasesKeepTheirSlots) {
  restart();
  const SessionId session{1, 77};
  message::HelloWorker hello = hello_of(50, 4);
  hello.cores = 4;
  hello.held = {{session, JobId{1}, {{TaskSequence{0}, 1, Attempt{0}}}}};
  const PeerId worker = join(hello);
  const PeerId producer = add_producer(1, true);
  const JobId job = ask(producer, 1, {3000, 0, 0});
  submit(producer, job, 0, 2);
  const JobId ordinary = declare(producer, 2);
  submit(producer, ordinary, 0, 3);
  pass(3s, {worker, producer});
  EXPECT_EQ(held(worker), 1U) << "one slot is left";
  workers_[worker].session = session;
  finish(worker, HeldLease{job, 0, 0});
  EXPECT_GE(held(worker), 2U);
}

}  // namespace
}  // namespace muster
