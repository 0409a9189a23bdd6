// Stories of programs that do not take their results: what producers say of results that came
// inline, and what is left for each of a session's jobs. Results that are blobs:
// scheduler_blobs_test.cpp.
#include "common/protocol/blob_names.hpp"
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

constexpr std::uint64_t kMegabyte = std::uint64_t{1} << 20;
constexpr std::uint64_t kLeast = limits::kLeastHeldBytes;

class SchedulerResults : public SchedulerTest {
 protected:
  std::size_t leases(PeerId worker) { return workers_.at(worker).leases.size(); }
  // The program holds so much of the job's results; of all its jobs what it said of each.
  void hold(PeerId producer, JobId job, std::uint64_t bytes) {
    std::uint64_t& held = held_[{producer, job}];
    total_[producer] += bytes - held;
    held = bytes;
    send(producer, message::ResultsHeld{job, bytes, total_[producer]});
  }
  void finish_with_bytes(PeerId worker, std::size_t bytes) {
    finish_with(worker, {Bytes::copy(std::string(bytes, 'r')), 0});
  }
  void finish_with_blob(PeerId worker, std::uint64_t id, std::uint64_t bytes) {
    const BlobName name{{9, id}, bytes};
    finish_with(worker, with_blobs({&name, 1}, {}));
  }
  void acknowledge(PeerId producer, JobId job, std::uint64_t end) {
    send(producer, message::AcknowledgeOutcomes{job, {{TaskSequence{0}, end}}});
  }
  bool was_told(PeerId producer, const std::string& text) {
    const auto& notices = producers_.at(producer).notices;
    return std::any_of(notices.begin(), notices.end(), [&](const std::string& notice) {
      return notice.find(text) != std::string::npos;
    });
  }

 private:
  void finish_with(PeerId worker, Payload body) {
    WorkerSide& side = workers_.at(worker);
    ASSERT_FALSE(side.leases.empty()) << "the worker has no lease to finish";
    const HeldLease lease = side.leases.front();
    side.leases.pop_front();
    const Outcome outcome{OutcomeStatus::result, std::move(body)};
    send(worker, message::WorkerOutcomes{
                     side.session,
                     lease.job,
                     1s,
                     {{TaskSequence{lease.sequence}, Attempt{lease.attempt}, {outcome}}}});
  }

  std::map<std::pair<PeerId, JobId>, std::uint64_t> held_;
  std::map<PeerId, std::uint64_t> total_;
};

TEST_F(SchedulerResults, AJobThatHoldsTooMuchStartsNothingUntilSomeIsConsumed) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 20);
  hold(producer, job, 256 * kMegabyte);
  ASSERT_EQ(leases(worker), 2U) << "what runs goes on";
  finish(worker, 2, 1s);
  EXPECT_EQ(leases(worker), 0U);
  pass(10s, {worker, producer});
  EXPECT_EQ(leases(worker), 0U) << "nobody can wait for a task that was never leased";
  EXPECT_TRUE(was_told(producer, "its results wait: the program has not taken 256 MiB"));
  hold(producer, job, 200 * kMegabyte);
  EXPECT_EQ(leases(worker), 2U);
}

TEST_F(SchedulerResults, ATaskThatRunsAgainStartsWhateverIsHeld) {
  const PeerId lost = add_worker(1, 1);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 20);
  ASSERT_EQ(leases(lost), 1U);
  hold(producer, job, 300 * kMegabyte);
  disconnect(lost);
  const PeerId worker = add_worker(2, 2);
  EXPECT_EQ(leases(worker), 0U);
  pass(30s, {worker, producer});
  ASSERT_EQ(sequences(worker), std::vector<std::uint64_t>{0}) << "the program may wait for it";
  finish(worker, 1, 1s);
  pass(30s, {worker, producer});
  EXPECT_EQ(leases(worker), 0U);
}

TEST_F(SchedulerResults, LeasesFitIntoWhatAJobMayStillHold) {
  const PeerId worker = add_worker(1, 40);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 100);
  hold(producer, job, 254 * kMegabyte);
  ASSERT_EQ(leases(worker), 40U) << "nothing is known of results yet";
  while (leases(worker) > 0) finish_with_bytes(worker, kMegabyte / 2);
  EXPECT_EQ(producers_.at(producer).outcomes.size(), 40U) << "what is on its way is held as well";
  acknowledge(producer, job, 40);
  EXPECT_EQ(leases(worker), 4U) << "four results of half a megabyte fit";
  finish_with_bytes(worker, kMegabyte / 2);
  EXPECT_EQ(leases(worker), 3U);
}

TEST_F(SchedulerResults, JobsOfOneProgramShareWhatItMayHold) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  std::uint64_t held = 0;
  for (std::uint32_t number = 1; number <= 20; ++number) {
    const JobId job = declare(producer, number);
    submit(producer, job, 0, 300);
    std::uint64_t of_job = 0;
    while (leases(worker) > 0) {
      finish(worker, 1, 1s);
      hold(producer, job, of_job += kMegabyte);
    }
    EXPECT_GE(of_job, kLeast) << "whatever the others hold";
    if (number <= 3) {
      EXPECT_GE(of_job, 250 * kMegabyte);
    }
    held += of_job;
  }
  EXPECT_LE(held, limits::kHeldSessionBytes + 20 * (kLeast + 2 * kMegabyte));
}

TEST_F(SchedulerResults, AProgramMayReadItsJobsInWhateverOrder) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  for (std::uint32_t number = 1; number <= 5; ++number) {
    const JobId unread = declare(producer, number);
    submit(producer, unread, 0, 10);
    hold(producer, unread, 256 * kMegabyte);
    finish(worker, leases(worker), 1s);
  }
  ASSERT_EQ(leases(worker), 0U);
  const JobId job = declare(producer, 6);
  submit(producer, job, 0, 50);
  for (int i = 0; i < 50; ++i) {
    ASSERT_GT(leases(worker), 0U) << "task " << i;
    finish(worker, 1, 1s);
    hold(producer, job, i % 2 == 0 ? 5 * kMegabyte : 0);
  }
  hold(producer, JobId{1}, 0);
  EXPECT_EQ(leases(worker), 2U) << "who was read goes on";
}

TEST_F(SchedulerResults, AnotherProgramIsNotHeldBack) {
  const PeerId worker = add_worker(1, 2);
  const PeerId full = add_producer(1);
  for (std::uint32_t number = 1; number <= 5; ++number) {
    hold(full, declare(full, number), 256 * kMegabyte);
  }
  const PeerId other = add_producer(2);
  const JobId job = declare(other, 1);
  hold(other, job, 100 * kMegabyte);
  submit(other, job, 0, 2);
  EXPECT_EQ(leases(worker), 2U);
}

TEST_F(SchedulerResults, BlobsAndWhatCameInlineCountTogether) {
  const PeerId worker = add_worker(1, 1);
  send(worker, message::WorkerBlobs{true, {}, {}, 0});
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  submit(producer, job, 0, 20);
  finish_with_blob(worker, 1, 200 * kMegabyte);
  ASSERT_EQ(leases(worker), 1U);
  hold(producer, job, 60 * kMegabyte);
  finish_with_blob(worker, 2, 1);
  EXPECT_EQ(leases(worker), 0U);
  send(producer, message::BlobRelease{{{9, 1}}});
  EXPECT_EQ(leases(worker), 1U);
}

TEST_F(SchedulerResults, OfAJobThatEndedTheyStillCountForTheProgram) {
  const PeerId worker = add_worker(1, 2);
  send(worker, message::WorkerBlobs{true, {}, {}, 0});
  const PeerId producer = add_producer(1);
  for (std::uint32_t number = 1; number <= 5; ++number) {
    const JobId job = declare(producer, number);
    submit(producer, job, 0, 1);
    finish_with_blob(worker, number, 200 * kMegabyte);
    acknowledge(producer, job, 1);
    send(producer, message::EndJob{job});
  }
  const JobId job = declare(producer, 6);
  submit(producer, job, 0, 20);
  hold(producer, job, 30 * kMegabyte);
  finish(worker, 2, 1s);
  ASSERT_EQ(leases(worker), 0U) << "24 MiB are left, in steps of 16";
  EXPECT_TRUE([&] {
    pass(2s, {worker, producer});
    return was_told(producer, "1030 MiB of those of all its jobs");
  }());
  send(producer, message::BlobRelease{{{9, 1}}});
  EXPECT_EQ(leases(worker), 2U);
}

TEST_F(SchedulerResults, WhatAProducerSaysOfUnknownJobsOrInsanelyMuchHarmsNobody) {
  const PeerId worker = add_worker(1, 2);
  const PeerId producer = add_producer(1);
  const JobId job = declare(producer, 1);
  send(producer, message::ResultsHeld{JobId{77}, UINT64_MAX, UINT64_MAX});
  send(producer, message::ResultsHeld{job, UINT64_MAX, UINT64_MAX});
  submit(producer, job, 0, 2);
  EXPECT_EQ(leases(worker), 0U);
  send(producer, message::ResultsHeld{job, 0, 0});
  EXPECT_EQ(leases(worker), 2U);
}

}  // namespace
}  // namespace muster
