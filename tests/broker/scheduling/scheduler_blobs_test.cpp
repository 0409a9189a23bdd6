// Stories of tasks that name blobs: where they go, who runs meanwhile what, and how much their
// results may pile up.
#include "common/protocol/blob_names.hpp"
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

constexpr BlobName kArray{{7, 1}, std::uint64_t{1} << 30};
constexpr BlobName kTable{{7, 2}, 1000};
constexpr BlobName kCode{{7, 3}, 5000};
constexpr std::uint64_t kMegabyte = std::uint64_t{1} << 20;

class SchedulerBlobs : public SchedulerTest {
 protected:
  PeerId add_node(std::uint32_t slots) { return join(hello_of(++last_node_, slots)); }
  PeerId add_sharing(std::uint32_t slots) {
    const PeerId worker = add_node(slots);
    send(worker, message::WorkerBlobs{true, {}, {}, 0});
    return worker;
  }
  void says_it_has(PeerId worker, std::vector<BlobName> blobs, std::uint32_t waiting = 0) {
    send(worker, message::WorkerBlobs{false, std::move(blobs), {}, waiting});
  }
  void says_it_waits(PeerId worker, std::uint32_t leases) {
    send(worker, message::WorkerBlobs{false, {}, {}, leases});
  }
  static Payload naming(const std::vector<BlobName>& blobs) {
    const Payload body{Bytes::copy("arguments"), 0};
    return blobs.empty() ? body : with_blobs(blobs, body);
  }
  void submit_naming(PeerId producer, JobId job, std::uint64_t first, std::uint64_t count,
                     const std::vector<BlobName>& blobs) {
    message::Submit submit{job, TaskSequence{first}, {}};
    submit.payloads.assign(count, naming(blobs));
    send(producer, submit);
  }
  void finish_with(PeerId worker, const std::vector<BlobName>& blobs) {
    WorkerSide& side = workers_.at(worker);
    ASSERT_FALSE(side.leases.empty()) << "the worker has no lease to finish";
    const HeldLease lease = side.leases.front();
    side.leases.pop_front();
    const Outcome outcome{OutcomeStatus::result, naming(blobs)};
    send(worker, message::WorkerOutcomes{
                     side.session,
                     lease.job,
                     1s,
                     {{TaskSequence{lease.sequence}, Attempt{lease.attempt}, {outcome}}}});
  }
  void give_back(PeerId worker) {
    WorkerSide& side = workers_.at(worker);
    message::Returned returned{side.session, {}, {}};
    for (const HeldLease& lease : std::exchange(side.recalled, {})) {
      std::erase(side.leases, lease);
      returned.job = lease.job;
      returned.leases.push_back({TaskSequence{lease.sequence}, 1, Attempt{lease.attempt}});
    }
    send(worker, returned);
  }
  std::size_t held(PeerId worker) { return workers_.at(worker).leases.size(); }
  Failure failure(PeerId producer, std::size_t outcome) {
    return decode_failure(producers_.at(producer).outcomes.at(outcome).second.body.bytes);
  }

 private:
  std::uint64_t last_node_ = 0;
};

TEST_F(SchedulerBlobs, ATaskGoesToTheIdleWorkerThatHasItsBlobs) {
  const PeerId first = add_node(2);
  const PeerId holder = add_node(2);
  const PeerId third = add_node(2);
  says_it_has(holder, {kArray});
  const PeerId producer = add_producer(1);
  submit_naming(producer, declare(producer, 1), 0, 1, {kArray});
  EXPECT_EQ(held(holder), 1U);
  EXPECT_EQ(held(first) + held(third), 0U);
}

TEST_F(SchedulerBlobs, TheFewestMissingBytesDecideAmongThoseThatLackSome) {
  const PeerId small = add_node(2);
  const PeerId large = add_node(2);
  says_it_has(small, {kTable});
  says_it_has(large, {kArray});
  const PeerId producer = add_producer(1);
  submit_naming(producer, declare(producer, 1), 0, 1, {kTable, kArray});
  EXPECT_EQ(held(large), 1U);
  EXPECT_EQ(held(small), 0U);
}

TEST_F(SchedulerBlobs, LoadComesBeforePlace) {
  const PeerId holder = add_node(2);
  const PeerId other = add_node(2);
  says_it_has(holder, {kArray});
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit_naming(producer, job, 0, 1, {kArray});
  submit_naming(producer, job, 1, 1, {kArray});
  EXPECT_EQ(held(holder), 1U);
  EXPECT_EQ(held(other), 1U) << "it fetches while the first one runs";
}

TEST_F(SchedulerBlobs, TheBlobsOfAJobsBodyCountLikeThoseOfItsTasks) {
  const PeerId other = add_worker(100, 2, {}, {}, "3.11");
  const PeerId holder = add_worker(101, 2, {}, {}, "3.11");
  says_it_has(holder, {kCode});
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.function = {FunctionKind::python, "label", "3.11", with_blobs(std::vector{kCode}, {})};
  submit(producer, declare(producer, 1, spec), 0, 1);
  EXPECT_EQ(held(holder), 1U);
  EXPECT_EQ(held(other), 0U);
}

TEST_F(SchedulerBlobs, WorkersThatShareTheFoldersHaveEverything) {
  const PeerId remote = add_node(2);
  says_it_has(remote, {kTable});
  const PeerId sharing = add_sharing(2);
  const PeerId producer = add_producer(1);
  submit_naming(producer, declare(producer, 1), 0, 1, {kTable, kArray});
  EXPECT_EQ(held(sharing), 1U);
}

TEST_F(SchedulerBlobs, LeasesThatWaitLeaveTheirSlotsToOthers) {
  const PeerId worker = add_node(2);
  const PeerId producer = add_producer(1);
  const JobId heavy = declare(producer, 1);
  const JobId light = declare(producer, 2);
  submit_naming(producer, heavy, 0, 6, {kArray});
  submit(producer, light, 0, 6);
  EXPECT_EQ(held(worker), 2U) << "nobody knows yet that they wait";
  says_it_waits(worker, 2);
  EXPECT_EQ(held(worker), 4U) << "two wait, two others run";
  EXPECT_EQ(workers_[worker].leases[2], (HeldLease{light, 0, 0}));
  EXPECT_EQ(workers_[worker].leases[3], (HeldLease{light, 1, 0}));
  finish(worker, workers_[worker].leases[2], 1s);
  EXPECT_EQ(held(worker), 5U) << "another light one, and no heavy one";
  EXPECT_EQ(workers_[worker].leases[4], (HeldLease{light, 2, 0}));
}

TEST_F(SchedulerBlobs, TasksThatWouldWaitAsWellSeeTheFullLoad) {
  const PeerId worker = add_node(3);
  const PeerId producer = add_producer(1);
  submit_naming(producer, declare(producer, 1), 0, 10, {kArray});
  EXPECT_EQ(held(worker), 3U);
  for (std::uint32_t claim : {3U, 5U, UINT32_MAX}) {
    says_it_waits(worker, claim);
    EXPECT_EQ(held(worker), 3U) << "however many it says that wait";
  }
}

TEST_F(SchedulerBlobs, AClaimToWaitGivesNobodyLeasesWithoutEnd) {
  const PeerId worker = add_node(2);
  const PeerId producer = add_producer(1);
  says_it_waits(worker, UINT32_MAX);
  submit(producer, declare(producer, 1), 0, 100);
  EXPECT_EQ(held(worker), 2U) << "it was leased nothing that it had to fetch for";
}

TEST_F(SchedulerBlobs, WhatArrivesWakesTheJobsThatNeedIt) {
  const PeerId worker = add_node(2);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit_naming(producer, job, 0, 6, {kArray});
  says_it_waits(worker, 2);
  EXPECT_EQ(held(worker), 2U);
  says_it_has(worker, {kArray}, 0);
  EXPECT_EQ(held(worker), 2U) << "these run now";
  finish(worker, 1, 1s);
  EXPECT_EQ(held(worker), 2U);
  says_it_waits(worker, 0);
  send(worker, message::WorkerBlobs{false, {}, {kArray.id}, 0});
  finish(worker, 1, 1s);
  EXPECT_EQ(held(worker), 2U) << "it fetches again";
}

TEST_F(SchedulerBlobs, ABlobThatArrivesLetsTasksOfOtherJobsInBesideThoseThatWait) {
  const PeerId worker = add_node(2);
  const PeerId producer = add_producer(1);
  submit_naming(producer, declare(producer, 1), 0, 2, {kArray});
  says_it_waits(worker, 2);
  const JobId other = declare(producer, 2);
  submit_naming(producer, other, 0, 4, {kTable});
  EXPECT_EQ(held(worker), 2U) << "it lacks that one, too";
  says_it_has(worker, {kTable}, 2);
  EXPECT_EQ(held(worker), 4U);
  EXPECT_EQ(workers_[worker].leases[3], (HeldLease{other, 1, 0}));
}

TEST_F(SchedulerBlobs, OneBatchHoldsNoTasksThatAreBetterOffElsewhere) {
  const PeerId left = add_node(4);
  const PeerId right = add_node(4);
  says_it_has(left, {kArray});
  says_it_has(right, {kTable});
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  message::Submit submit{job, TaskSequence{0}, {}};
  for (int i = 0; i < 2; ++i) submit.payloads.push_back(naming({kArray}));
  for (int i = 0; i < 2; ++i) submit.payloads.push_back(naming({kTable}));
  send(producer, submit);
  EXPECT_EQ(sequences(left), (std::vector<std::uint64_t>{0, 1}));
  EXPECT_EQ(sequences(right), (std::vector<std::uint64_t>{2, 3}));
}

TEST_F(SchedulerBlobs, AHolderIsFoundAmongManyInSeveralSearches) {
  std::vector<PeerId> nodes;
  for (int i = 0; i < 200; ++i) nodes.push_back(add_node(1));
  const PeerId producer = add_producer(1);
  for (const PeerId node : nodes) says_it_has(node, {kTable});
  // Every worker is busy but one that the search begins far from.
  submit(producer, declare(producer, 1), 0, 200);
  for (const PeerId node : nodes) ASSERT_EQ(held(node), 1U);
  submit_naming(producer, declare(producer, 2), 0, 1, {kTable});
  finish(nodes[150], 1, 1s);
  EXPECT_EQ(held(nodes[150]), 1U) << "who has just become free is looked at first";
}

TEST_F(SchedulerBlobs, NobodyFetchesWhatWouldRunSoonerWhereItIs) {
  const PeerId holder = add_node(1);
  says_it_has(holder, {kArray});
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit_naming(producer, job, 0, 1, {kArray});
  finish(holder, 1, 4ms);
  submit_naming(producer, job, 1, 3, {kArray});
  ASSERT_EQ(held(holder), 3U) << "short ones are leased ahead";
  const PeerId idle = add_node(4);
  pass(500ms, {holder, idle, producer});
  EXPECT_TRUE(workers_[holder].recalled.empty()) << "fetching a gigabyte takes longer";
  says_it_has(idle, {kArray});
  pass(500ms, {holder, idle, producer});
  EXPECT_FALSE(workers_[holder].recalled.empty());
}

TEST_F(SchedulerBlobs, LeasesThatWaitGoToIdleSlotsThatHaveTheirBlobs) {
  const PeerId remote = add_node(2);
  const PeerId sharing = add_sharing(1);
  const PeerId producer = add_producer(1);
  submit_naming(producer, declare(producer, 1), 0, 3, {kArray});
  ASSERT_EQ(held(remote), 2U);
  ASSERT_EQ(held(sharing), 1U);
  says_it_waits(remote, 2);
  EXPECT_TRUE(workers_[remote].recalled.empty()) << "nobody is idle";
  finish(sharing, 1, 1s);
  ASSERT_EQ(workers_[remote].recalled.size(), 1U) << "as many as there are idle slots";
  give_back(remote);
  EXPECT_EQ(held(sharing), 1U) << "not back to where it would wait again";
  EXPECT_EQ(held(remote), 1U);
}

TEST_F(SchedulerBlobs, ATaskOnItsLastRunFetchesWhatItNeeds) {
  const PeerId lost = add_node(1);
  says_it_has(lost, {kArray});
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.crash_budget = 2;
  submit_naming(producer, declare(producer, 1, spec), 0, 1, {kArray});
  const PeerId holder = add_node(1);
  says_it_has(holder, {kArray});
  submit(producer, declare(producer, 2), 0, 1);
  ASSERT_EQ(held(holder), 1U);
  const PeerId alone = add_node(1);
  pass(15s, {producer, holder, alone});
  ASSERT_EQ(held(alone), 1U);
  says_it_waits(alone, 1);
  finish(holder, 1, 1s);
  EXPECT_TRUE(workers_[alone].recalled.empty()) << "it would come back, and fetch from the start";
  finish(alone, 1);
  EXPECT_EQ(producers_[producer].outcomes.size(), 2U);
}

TEST_F(SchedulerBlobs, WhoWaitedWhenItsWorkerWasLostDidNotRun) {
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.crash_budget = 1;
  const JobId job = declare(producer, 1, spec);
  const PeerId worker = add_node(2);
  submit_naming(producer, job, 0, 1, {kArray});
  says_it_waits(worker, 1);
  pass(15s, {producer});
  EXPECT_EQ(scheduler_->counter("workers_lost"), 1U);
  EXPECT_TRUE(producers_[producer].outcomes.empty());
  EXPECT_EQ(scheduler_->counter("leases_lost_waiting"), 1U);
  const PeerId next = add_node(2);
  ASSERT_EQ(held(next), 1U);
  says_it_has(next, {kArray}, 0);
  pass(15s, {producer});
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U) << "this time it ran";
  EXPECT_EQ(failure(producer, 0).kind, "lost");
}

TEST_F(SchedulerBlobs, ATaskThatEndsEveryWorkerBeforeItIsHeardOfEndsAsLost) {
  const PeerId producer = add_producer(1);
  submit_naming(producer, declare(producer, 1), 0, 1, {kArray});
  for (int i = 0; i < 20 && producers_[producer].outcomes.empty(); ++i) {
    const PeerId worker = add_node(1);
    says_it_waits(worker, 1);
    pass(15s, {producer});
  }
  ASSERT_EQ(producers_[producer].outcomes.size(), 1U);
  EXPECT_EQ(failure(producer, 0).kind, "lost");
}

TEST_F(SchedulerBlobs, AWorkerThatComesBackSaysAnewWhatItHas) {
  const PeerId worker = add_node(1);
  const PeerId other = add_node(1);
  says_it_has(worker, {kArray}, 0);
  disconnect(worker);
  const PeerId again = join(hello_of(1, 1));
  const PeerId producer = add_producer(1);
  says_it_has(other, {kArray});
  submit_naming(producer, declare(producer, 1), 0, 1, {kArray});
  EXPECT_EQ(held(other), 1U);
  EXPECT_EQ(held(again), 0U);
}

TEST_F(SchedulerBlobs, WhatWorkersClaimToHaveIsBounded) {
  const PeerId worker = add_node(1);
  for (std::uint64_t i = 0; i < 20; ++i) {
    message::WorkerBlobs said;
    for (std::uint64_t j = 0; j < limits::kMaxBlobEntries; ++j)
      said.added.push_back({{i + 1, j}, 1});
    send(worker, said);
  }
  EXPECT_EQ(scheduler_->counter("worker_blobs_unknown"), 4 * limits::kMaxBlobEntries);
}

TEST_F(SchedulerBlobs, TasksThatAskForResourcesPreferTheirBlobsPlaceAsWell) {
  message::HelloWorker hello = hello_of(50, 4);
  hello.cores = 4;
  const PeerId other = join(hello);
  hello.worker = {51, 99};
  const PeerId holder = join(hello);
  says_it_has(holder, {kArray});
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.resources.milli_cpus = 2000;
  submit_naming(producer, declare(producer, 1, spec), 0, 1, {kArray});
  EXPECT_EQ(held(holder), 1U);
  says_it_waits(other, 9);
  submit_naming(producer, declare(producer, 2, spec), 0, 9, {kTable});
  EXPECT_EQ(held(other) + held(holder), 4U) << "their widths add up, waiting or not";
}

TEST_F(SchedulerBlobs, AFunctionThatComesWithItsLibrariesRunsAnywhere) {
  const PeerId worker = add_node(1);
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.function.name = "shipped";
  spec.function.body = with_blobs(std::vector{kCode}, {Bytes::copy("names"), 0});
  submit(producer, declare(producer, 1, spec), 0, 1);
  EXPECT_EQ(held(worker), 1U);
  EXPECT_EQ(find_other<message::Refuse>(producers_[producer].other), nullptr);
  JobSpec command;
  command.function.kind = FunctionKind::command;
  command.function.body = spec.function.body;
  declare(producer, 2, command);
  EXPECT_NE(find_other<message::Refuse>(producers_[producer].other), nullptr);
}

TEST_F(SchedulerBlobs, ResultsThatNobodyReleasesHoldTheJobBack) {
  const PeerId worker = add_sharing(2);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  const JobId other = declare(producer, 2);
  submit(producer, job, 0, 20);
  std::uint64_t result = 0;
  const auto next = [&] { return std::vector<BlobName>{{{9, ++result}, 100 * kMegabyte}}; };
  for (int i = 0; i < 2; ++i) finish_with(worker, next());
  EXPECT_EQ(held(worker), 1U) << "200 of 256 MB are held: one more, which is most likely too much";
  finish_with(worker, next());
  EXPECT_EQ(held(worker), 0U);
  submit(producer, other, 0, 1);
  EXPECT_EQ(held(worker), 1U) << "another job is not held back";
  finish_with(worker, {});
  for (int i = 0; i < 3; ++i) {
    pass(2s, {worker, producer});
    EXPECT_EQ(held(worker), 1U) << "one at a time, so that the oldest missing result comes";
    finish_with(worker, next());
    EXPECT_EQ(held(worker), 0U);
  }
  const auto& notices = producers_[producer].notices;
  EXPECT_TRUE(std::any_of(notices.begin(), notices.end(), [](const std::string& text) {
    return text.find("its results wait") != std::string::npos;
  }));
}

TEST_F(SchedulerBlobs, ASlowConsumerGetsItsResultsBeforeMoreTasksStart) {
  const PeerId worker = add_sharing(2);
  const PeerId producer = add_producer(1);
  submit(producer, declare(producer, 1), 0, 200);
  std::uint64_t result = 0;
  while (held(worker) > 0) finish_with(worker, {{{9, ++result}, 30 * kMegabyte}});
  EXPECT_EQ(result, 9U);
  for (std::uint64_t taken = 1; taken <= 20; ++taken) {
    pass(500ms, {worker, producer});
    EXPECT_EQ(held(worker), 0U);
    send(producer, message::BlobRelease{{{9, taken}}});
    EXPECT_EQ(held(worker), 1U);
    finish_with(worker, {{{9, ++result}, 30 * kMegabyte}});
  }
}

TEST_F(SchedulerBlobs, AReleaseLetsTheJobGoOn) {
  const PeerId worker = add_sharing(2);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 20);
  for (std::uint64_t id = 1; id <= 3; ++id) finish_with(worker, {{{9, id}, 100 * kMegabyte}});
  ASSERT_EQ(held(worker), 0U);
  send(producer, message::BlobRelease{{{9, 1}, {9, 2}, {9, 3}, {9, 99}}});
  EXPECT_EQ(held(worker), 2U) << "as many as its slots, no more waiting for anything";
  send(producer, message::BlobRelease{{{9, 1}}});
  EXPECT_EQ(held(worker), 2U);
}

TEST_F(SchedulerBlobs, AReleaseLetsATaskOnItsLastRunGoOnAsWell) {
  constexpr std::uint64_t kFinished = 5;
  std::vector<PeerId> nodes;
  for (std::uint64_t i = 0; i < kFinished + 2; ++i) nodes.push_back(add_sharing(1));
  const PeerId producer = add_producer(1);
  JobSpec spec;
  spec.crash_budget = 2;
  const JobId job = declare(producer, 1, spec);
  submit(producer, job, 0, nodes.size());
  message::BlobRelease release;
  for (std::uint64_t i = 0; i < kFinished; ++i) {
    finish_with(nodes[i], {{{9, i + 1}, 60 * kMegabyte}});
    release.blobs.push_back({9, i + 1});
  }
  std::vector<PeerId> alive{producer};
  for (const PeerId node : nodes) {
    if (node != nodes[kFinished]) alive.push_back(node);
  }
  pass(15s, alive);
  ASSERT_EQ(scheduler_->counter("leases_lost"), 1U);
  for (std::uint64_t i = 0; i < kFinished; ++i) EXPECT_EQ(held(nodes[i]), 0U);
  send(producer, release);
  std::size_t leases = 0;
  for (std::uint64_t i = 0; i < kFinished; ++i) leases += held(nodes[i]);
  EXPECT_EQ(leases, 1U);
}

}  // namespace
}  // namespace muster
