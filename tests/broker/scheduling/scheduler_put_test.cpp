// Who keeps which blobs: announced ones and those of outcomes, until they are released or their
// session ends; and tasks whose blobs are not there.
#include <gtest/gtest.h>

#include "common/protocol/blob_names.hpp"
#include "tests/broker/scheduling/environment.hpp"
#include "tests/support/blob_set.hpp"

namespace muster {
namespace {

class SchedulerPutTest : public SchedulerTest {
 protected:
  SchedulerPutTest() {
    options_.blobs = &files_;
    options_.blob_folders = {"/memory", "/disk"};
    options_.blob_token = "secret";
    options_.credit_blob_bytes = 1000;
    options_.credit_memory_bytes = 600;
    restart();
    producer_ = add_producer(1);
  }
  ~SchedulerPutTest() override {  // the files go before the scheduler
    scheduler_->check_invariants();
    options_.blobs = nullptr;
    restart();
  }

  static BlobName name(std::uint64_t number, std::uint64_t size = 100) {
    return {{77, number}, size};
  }
  // What the broker says to it.
  BlobAnswer put(PeerId producer, const BlobName& blob, BlobPlace place = BlobPlace::memory,
                 const std::string& file = "f") {
    producers_.at(producer).other.clear();
    send(producer, message::BlobPut{{{blob, place, file, 0}}});
    const auto* answers = find_other<message::BlobAnswers>(producers_.at(producer).other);
    EXPECT_NE(answers, nullptr);
    EXPECT_EQ(answers->blobs.size(), 1U);
    return answers->blobs.at(0);
  }
  void release(PeerId producer, const BlobName& blob) {
    send(producer, message::BlobRelease{{blob.id}});
  }
  void submit_naming(PeerId producer, JobId job, std::uint64_t first,
                     const std::vector<BlobName>& blobs) {
    send(producer,
         message::Submit{job, TaskSequence{first}, {with_blobs(blobs, {Bytes::copy("x"), 0})}});
  }
  void finish_with(PeerId worker, const std::vector<BlobName>& blobs) {
    const HeldLease lease = workers_.at(worker).leases.front();
    workers_.at(worker).leases.pop_front();
    finish_with(worker, lease, blobs);
  }
  void finish_with(PeerId worker, const HeldLease& lease, const std::vector<BlobName>& blobs) {
    const Outcome outcome{OutcomeStatus::result, with_blobs(blobs, {})};
    send(worker, message::WorkerOutcomes{
                     producers_.at(producer_).id,
                     lease.job,
                     1ms,
                     {{TaskSequence{lease.sequence}, Attempt{lease.attempt}, {outcome}}}});
  }
  std::string failure_kind(PeerId producer, std::size_t index) {
    const Outcome& outcome = producers_.at(producer).outcomes.at(index).second;
    return outcome.status == OutcomeStatus::result ? "" : decode_failure(outcome.body.bytes).kind;
  }

  testing::BlobSet files_;
  PeerId producer_{};
};

TEST_F(SchedulerPutTest, WelcomeSaysWhereTheFoldersAre) {
  const auto* welcome = find_other<message::Welcome>(producers_.at(producer_).other);
  ASSERT_NE(welcome, nullptr);
  EXPECT_EQ(welcome->blob_folders, (std::vector<std::string>{"/memory", "/disk"}));
  EXPECT_EQ(welcome->blob_token, "secret");
  EXPECT_EQ(welcome->credit_blob_bytes, 1000U);
  EXPECT_EQ(welcome->credit_memory_bytes, 600U);
  const PeerId worker = add_worker(1, 1);
  const auto* to_worker = find_other<message::Welcome>(workers_.at(worker).other);
  ASSERT_NE(to_worker, nullptr);
  EXPECT_EQ(to_worker->blob_token, "secret");
  EXPECT_EQ(to_worker->credit_blob_bytes, 0U);
}

TEST_F(SchedulerPutTest, AnnouncedBlobsStayUntilTheyAreReleased) {
  EXPECT_EQ(put(producer_, name(1)).state, BlobState::here);
  EXPECT_EQ(put(producer_, name(1)).state, BlobState::here) << "again, as after every WELCOME";
  EXPECT_EQ(files_.pins(name(1).id), 1U);
  const PeerId other = add_producer(2);
  EXPECT_EQ(put(other, name(1), BlobPlace::kept).state, BlobState::here);
  EXPECT_EQ(files_.pins(name(1).id), 2U);
  release(producer_, name(1));
  release(producer_, name(1));
  EXPECT_EQ(files_.pins(name(1).id), 1U);
  release(other, name(1));
  EXPECT_EQ(files_.pins(name(1).id), 0U);
  EXPECT_EQ(put(other, name(1), BlobPlace::kept).state, BlobState::here) << "it is still cached";
  release(other, name(1));
  files_.drop_cached();
  EXPECT_EQ(put(other, name(1), BlobPlace::kept).state, BlobState::missing);
  EXPECT_EQ(files_.pins(name(1).id), 0U);
}

TEST_F(SchedulerPutTest, WhatIsNotTakenIsSaid) {
  const BlobAnswer refused = put(producer_, name(1), BlobPlace::memory, "refused");
  EXPECT_EQ(refused.state, BlobState::refused);
  EXPECT_EQ(refused.text, "it is refused");
  EXPECT_EQ(refused.id, name(1).id);
  EXPECT_EQ(put(producer_, name(2, 100)).state, BlobState::here);
  EXPECT_EQ(put(producer_, name(2, 101)).state, BlobState::refused);
  EXPECT_EQ(put(producer_, name(2, 101), BlobPlace::kept).state, BlobState::missing);
}

TEST_F(SchedulerPutTest, ASessionKeepsNoMoreThanItsCredit) {
  EXPECT_EQ(put(producer_, name(1, 600)).state, BlobState::here);
  const BlobAnswer refused = put(producer_, name(2, 401));
  EXPECT_EQ(refused.state, BlobState::refused);
  EXPECT_NE(refused.text.find("--blob-memory"), std::string::npos) << refused.text;
  EXPECT_EQ(files_.pins(name(2).id), 0U);
  EXPECT_EQ(put(producer_, name(3, UINT64_MAX)).state, BlobState::refused);
  EXPECT_EQ(put(producer_, name(4, 400)).state, BlobState::here);
  EXPECT_EQ(put(producer_, name(5, 10'000), BlobPlace::file, "/data").state, BlobState::here)
      << "a file of the user's takes no room here";
  release(producer_, name(1));
  EXPECT_EQ(put(producer_, name(2, 401), BlobPlace::kept).state, BlobState::here);
}

TEST_F(SchedulerPutTest, TheEndOfASessionReleasesWhatItKept) {
  put(producer_, name(1));
  const PeerId other = add_producer(2);
  put(other, name(1), BlobPlace::kept);
  put(other, name(2));
  send(producer_, message::Goodbye{});
  EXPECT_EQ(files_.pins(name(1).id), 1U);
  EXPECT_TRUE(files_.cleared(to_hex(SessionId{1, 77})));
  disconnect(other);
  pass(30s);
  EXPECT_EQ(files_.pins(name(2).id), 1U) << "it may come back";
  pass(31s);
  EXPECT_EQ(files_.pins(name(1).id), 0U);
  EXPECT_EQ(files_.pins(name(2).id), 0U);
}

TEST_F(SchedulerPutTest, ATaskWhoseBlobsAreNotHereEnds) {
  const PeerId worker = add_worker(1, 2);
  const JobId job = declare(producer_, 1);
  put(producer_, name(1));
  submit_naming(producer_, job, 0, {name(1)});
  EXPECT_EQ(workers_.at(worker).leases.size(), 1U);
  submit_naming(producer_, job, 1, {name(1), name(2)});
  EXPECT_EQ(workers_.at(worker).leases.size(), 1U);
  ASSERT_EQ(producers_.at(producer_).outcomes.size(), 1U);
  EXPECT_EQ(failure_kind(producer_, 0), "blob_lost");
  submit_naming(producer_, job, 2, {name(1, 99)});
  EXPECT_EQ(failure_kind(producer_, 1), "blob_lost") << "another size is another blob";
  submit(producer_, job, 3, 1);
  EXPECT_EQ(workers_.at(worker).leases.size(), 2U) << "the job goes on";
}

TEST_F(SchedulerPutTest, SoDoThoseOfAJobWhoseBodyIsNotHere) {
  add_worker(1, 2, {"f"}, {}, "3.11");
  JobSpec spec;
  spec.function = {FunctionKind::python, "label", "3.11",
                   with_blobs(std::vector<BlobName>{name(1)}, {})};
  const JobId job = declare(producer_, 1, spec);
  submit(producer_, job, 0, 2);
  ASSERT_EQ(producers_.at(producer_).outcomes.size(), 2U);
  EXPECT_EQ(failure_kind(producer_, 1), "blob_lost");
}

TEST_F(SchedulerPutTest, BlobsOfOutcomesStayUntilTheyAreReleased) {
  const PeerId worker = add_worker(1, 2);
  const JobId job = declare(producer_, 1);
  submit(producer_, job, 0, 1);
  files_.add(name(5));
  files_.add(name(6));
  finish_with(worker, {name(5), name(6)});
  ASSERT_EQ(producers_.at(producer_).outcomes.size(), 1U);
  EXPECT_EQ(producers_.at(producer_).outcomes[0].second.body.blobs, 2U);
  send(producer_, message::AcknowledgeOutcomes{job, {{TaskSequence{0}, 1}}});
  send(producer_, message::EndJob{job});
  EXPECT_EQ(files_.pins(name(5).id), 1U) << "the application has not used them yet";
  release(producer_, name(5));
  EXPECT_EQ(files_.size(), 1U) << "nobody else needs it";
  EXPECT_EQ(put(producer_, name(6), BlobPlace::kept).state, BlobState::here)
      << "the result is an argument now";
  release(producer_, name(6));
  EXPECT_EQ(files_.pins(name(6).id), 0U);
  EXPECT_EQ(files_.size(), 1U) << "and is cached like one";
}

TEST_F(SchedulerPutTest, AnOutcomeWithoutItsBlobsIsAFailure) {
  const PeerId worker = add_worker(1, 2);
  JobSpec spec;
  spec.retries = 1;
  const JobId job = declare(producer_, 1, spec);
  submit(producer_, job, 0, 1);
  finish_with(worker, {name(5)});
  EXPECT_EQ(workers_.at(worker).leases.size(), 1U) << "it may run once more";
  finish_with(worker, {name(5)});
  ASSERT_EQ(producers_.at(producer_).outcomes.size(), 1U);
  EXPECT_EQ(failure_kind(producer_, 0), "blob_lost");
}

TEST_F(SchedulerPutTest, ALateOutcomeKeepsNothing) {
  const PeerId worker = add_worker(1, 2);
  const JobId job = declare(producer_, 1);
  submit(producer_, job, 0, 1);
  files_.add(name(5));
  const HeldLease lease = workers_.at(worker).leases.front();
  EXPECT_TRUE(scheduler_->expects_outcome({1, 99}, {1, 77}, job, TaskSequence{0}, Attempt{0}));
  EXPECT_FALSE(scheduler_->expects_outcome({1, 99}, {1, 77}, job, TaskSequence{0}, Attempt{1}));
  EXPECT_FALSE(scheduler_->expects_outcome({2, 99}, {1, 77}, job, TaskSequence{0}, Attempt{0}));
  EXPECT_FALSE(scheduler_->expects_outcome({1, 99}, {1, 77}, JobId{9}, TaskSequence{0}, {}));
  finish_with(worker, lease, {name(5)});
  EXPECT_FALSE(scheduler_->expects_outcome({1, 99}, {1, 77}, job, TaskSequence{0}, Attempt{0}));
  files_.add(name(6));
  finish_with(worker, lease, {name(6)});
  EXPECT_EQ(files_.pins(name(5).id), 1U);
  EXPECT_EQ(files_.pins(name(6).id), 0U);
  EXPECT_EQ(producers_.at(producer_).outcomes.size(), 1U);
}

TEST_F(SchedulerPutTest, AfterARestartOutcomesKeepTheirBlobsForAProducerThatIsNotBackYet) {
  const PeerId worker = add_worker(1, 2);
  const JobId job = declare(producer_, 1);
  submit(producer_, job, 0, 1);
  const HeldLease lease = workers_.at(worker).leases.front();
  files_.add(name(5));
  restart();
  const PeerId again =
      add_worker(1, 2, {"f"}, {{{1, 77}, job, {{TaskSequence{0}, 1, Attempt{0}}}}});
  finish_with(again, lease, {name(5)});
  EXPECT_EQ(files_.pins(name(5).id), 1U);
  producer_ = add_producer(1, true);
  declare(producer_, 1);
  submit(producer_, job, 0, 1);
  ASSERT_EQ(producers_.at(producer_).outcomes.size(), 1U);
  EXPECT_EQ(producers_.at(producer_).outcomes[0].second.body.blobs, 1U);
  release(producer_, name(5));
  EXPECT_EQ(files_.size(), 0U);
}

TEST_F(SchedulerPutTest, BlobsOfAnOutcomeThatNobodyWaitsForAreLetGoUnlessTheProducerNeedsThem) {
  const PeerId worker = add_worker(1, 1);
  const JobId job = declare(producer_, 1);
  submit(producer_, job, 0, 1);
  const HeldLease lease = workers_.at(worker).leases.front();
  restart();
  const PeerId again = add_worker(1, 1, {"f"}, {{{1, 77}, job, {{TaskSequence{0}, 1, {}}}}});
  files_.add(name(5));
  files_.add(name(6));
  finish_with(again, lease, {name(5), name(6)});
  EXPECT_EQ(files_.pinned(), 2U);
  producer_ = add_producer(1, true);  // it has had that outcome
  EXPECT_EQ(put(producer_, name(6), BlobPlace::kept).state, BlobState::here);
  declare(producer_, 1);
  submit(producer_, job, 1, 1);
  EXPECT_EQ(workers_.at(again).acknowledged, 1U);
  EXPECT_EQ(files_.pins(name(5).id), 0U);
  EXPECT_EQ(files_.pins(name(6).id), 1U);
}

TEST_F(SchedulerPutTest, OthersMayNotSayAProducersWords) {
  const PeerId worker = add_worker(1, 2);
  send(worker, message::BlobPut{{{name(1), BlobPlace::memory, "f", 0}}});
  EXPECT_NE(find_other<message::Refuse>(workers_.at(worker).other), nullptr);
  send(producer_, message::BlobWant{name(1).id, 0, 10});
  EXPECT_NE(find_other<message::Refuse>(producers_.at(producer_).other), nullptr);
}

}  // namespace
}  // namespace muster
