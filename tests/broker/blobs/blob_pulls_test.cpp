// Outcomes wait for their blobs: taken from the folder, or fetched chunk by chunk; and what workers
// that lie, vanish or come back do to them.
#include "broker/blobs/blob_pulls.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kChunk = limits::kBlobChunkBytes;
constexpr WorkerId kFirst{1, 9};
constexpr WorkerId kSecond{2, 9};
constexpr SessionId kProducer{3, 9};

class Books : public OutcomeBooks {
 public:
  bool expects(const WorkerId& worker, const message::WorkerOutcomes& outcome) const override {
    return late.count({worker, value(outcome.runs.front().first)}) == 0;
  }
  bool is_connected(const WorkerId& worker) const override { return lost.count(worker) == 0; }
  bool shares(const WorkerId& worker) const override { return sharing.count(worker) != 0; }

  std::set<std::pair<WorkerId, std::uint64_t>> late;
  std::set<WorkerId> lost;
  std::set<WorkerId> sharing;
};

std::string content_of(std::uint64_t number, std::uint64_t size) {
  std::string content(size, '\0');
  for (std::uint64_t i = 0; i < size; ++i) content[i] = static_cast<char>(number + i * 7 + i / 251);
  return content;
}

class BlobPullsTest : public ::testing::Test {
 protected:
  static BlobFolderOptions options(const testing::TemporaryFolder& folder) {
    BlobFolderOptions options;
    options.memory = folder.path("memory/store");
    options.disk = folder.path("disk/store");
    options.memory_limit_bytes = std::uint64_t{320} << 20;
    return options;
  }
  static BlobName name(std::uint64_t number, std::uint64_t size) { return {{88, number}, size}; }

  static message::WorkerOutcomes saying(std::uint64_t first,
                                        const std::vector<std::vector<BlobName>>& outcomes) {
    message::WorkerOutcomes said{kProducer, JobId{1}, 100ms, {{TaskSequence{first}, {}, {}}}};
    for (const auto& blobs : outcomes) {
      const Payload body{Bytes::copy("body"), 0};
      said.runs[0].outcomes.push_back(
          {OutcomeStatus::result, blobs.empty() ? body : with_blobs(blobs, body)});
    }
    return said;
  }
  void take(const WorkerId& worker, std::uint64_t first, const std::vector<BlobName>& blobs) {
    EXPECT_TRUE(pulls_.take(worker, saying(first, {blobs}), now_).runs.empty());
  }
  // As a worker answers: the right bytes of what is asked for.
  message::BlobChunk answer(const message::BlobWant& want) const {
    const std::string content = content_of(want.blob.low, want.offset + want.bytes);
    return {want.blob, want.offset, {Bytes::copy(content.substr(want.offset)), 0}};
  }
  void answer_all() {
    for (int rounds = 0; rounds < 1000; ++rounds) {
      const auto wants = pulls_.take_wants(now_);
      if (wants.empty()) return;
      for (const auto& [worker, want] : wants) {
        ++asked_[{want.blob.low, want.offset}];
        EXPECT_TRUE(pulls_.receive(worker, answer(want), now_));
      }
    }
    FAIL() << "it asks without end";
  }
  // The sequences that went on, "!" those that failed.
  std::string ready() {
    std::string text;
    for (BlobPulls::Ready& one : pulls_.take_ready()) {
      const OutcomeRun& run = one.outcome.runs.front();
      const Outcome& outcome = run.outcomes.front();
      text += std::to_string(value(run.first));
      if (outcome.status != OutcomeStatus::result) {
        const Failure failure = decode_failure(outcome.body.bytes);
        text += "!" + failure.kind;
        why_ = failure.message;
      }
      text += " ";
      for (std::uint32_t i = 0; i < outcome.body.blobs; ++i) {
        EXPECT_TRUE(folder_.holds(blob_at(outcome.body, i).id) || !pulls_complete_);
      }
      pulls_.done(one.pinned);
    }
    return text;
  }
  void leave(const WorkerId& worker, const BlobName& blob) {
    std::ofstream(incoming(worker, blob), std::ios::binary)
        << content_of(blob.id.low, blob.size_bytes);
  }
  // Of zeros, and of any size: it takes no room on the disk.
  void leave_large(const WorkerId& worker, const BlobName& blob) {
    leave(worker, {blob.id, 0});
    std::filesystem::resize_file(incoming(worker, blob), blob.size_bytes);
  }
  std::string incoming(const WorkerId& worker, const BlobName& blob) const {
    return folder_.folders()[0] + "/incoming/" + to_hex(blob.id) + "." + to_hex(worker);
  }
  bool is_left(const WorkerId& worker, const BlobName& blob) const {
    return std::filesystem::exists(incoming(worker, blob));
  }
  std::string stored(const BlobName& blob) {
    std::ostringstream text;
    text << std::ifstream(folder_.path(blob.id), std::ios::binary).rdbuf();
    return text.str();
  }

  testing::TemporaryFolder place_;
  BlobFolder folder_{options(place_)};
  Books books_;
  BlobPulls pulls_{folder_, books_};
  Time now_{1000s};
  std::map<std::pair<std::uint64_t, std::uint64_t>, int> asked_;
  std::string why_;
  bool pulls_complete_ = true;
};

TEST_F(BlobPullsTest, OutcomesWithoutBlobsGoOnAtOnce) {
  const BlobName blob = name(1, 3 * kChunk);
  const auto plain = pulls_.take(kFirst, saying(5, {{}, {blob}, {}, {}}), now_);
  ASSERT_EQ(plain.runs.size(), 2U);
  EXPECT_EQ(value(plain.runs[0].first), 5U);
  EXPECT_EQ(plain.runs[0].outcomes.size(), 1U);
  EXPECT_EQ(value(plain.runs[1].first), 7U);
  EXPECT_EQ(plain.runs[1].outcomes.size(), 2U);
  EXPECT_EQ(plain.busy, 75ms) << "its share of the time";
  EXPECT_EQ(ready(), "");
  EXPECT_EQ(pulls_.held(), 1U);
}

TEST_F(BlobPullsTest, FetchesWhatAnOutcomeNamesAFewChunksAhead) {
  const BlobName blob = name(1, 30 * kChunk + 17);
  take(kFirst, 5, {blob});
  EXPECT_TRUE(pulls_.take_wants(now_).empty()) << "there is no bulk connection yet";
  pulls_.connected(kFirst, now_);
  auto wants = pulls_.take_wants(now_);
  EXPECT_EQ(wants.size(), limits::kBlobChunksAhead);
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  std::reverse(wants.begin(), wants.end());
  for (const auto& [worker, want] : wants) EXPECT_TRUE(pulls_.receive(worker, answer(want), now_));
  answer_all();
  EXPECT_EQ(pulls_.received_bytes(), blob.size_bytes);
  EXPECT_EQ(folder_.size_bytes(blob.id), blob.size_bytes);
  EXPECT_EQ(stored(blob), content_of(1, blob.size_bytes));
  folder_.pin(blob.id);  // the scheduler does
  EXPECT_EQ(ready(), "5 ");
  EXPECT_TRUE(folder_.holds(blob.id));
  EXPECT_EQ(pulls_.held(), 0U);
}

TEST_F(BlobPullsTest, WhatNobodyKeepsGoesAtOnce) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, 100), name(2, 0)});
  answer_all();
  EXPECT_EQ(ready(), "5 ");
  EXPECT_EQ(folder_.count(), 0U);
}

TEST_F(BlobPullsTest, SmallBlobsFillThePipeTogether) {
  pulls_.connected(kFirst, now_);
  for (std::uint64_t i = 0; i < 20; ++i) take(kFirst, i, {name(100 + i, 1000), name(200 + i, 5)});
  const auto wants = pulls_.take_wants(now_);
  EXPECT_EQ(wants.size(), limits::kBlobChunksAhead);
  for (const auto& [worker, want] : wants) EXPECT_TRUE(pulls_.receive(worker, answer(want), now_));
  EXPECT_EQ(ready(), "0 1 2 3 4 5 ");
  answer_all();
  EXPECT_EQ(ready().substr(0, 4), "6 7 ");
}

TEST_F(BlobPullsTest, TheSameBlobIsFetchedOnce) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, 2 * kChunk), name(1, 2 * kChunk)});
  take(kFirst, 6, {name(1, 2 * kChunk)});
  answer_all();
  EXPECT_EQ(pulls_.received_bytes(), 2 * kChunk);
  EXPECT_EQ(ready(), "5 6 ");
}

TEST_F(BlobPullsTest, AnOutcomeThatIsSaidAgainCountsOnce) {
  take(kFirst, 5, {name(1, 100)});
  take(kFirst, 5, {name(1, 100)});
  pulls_.connected(kFirst, now_);
  answer_all();
  EXPECT_EQ(ready(), "5 ");
  books_.late.insert({kFirst, 5});  // its lease is over: it is acknowledged, and nothing fetched
  take(kFirst, 5, {name(1, 100)});
  pulls_complete_ = false;
  EXPECT_EQ(ready(), "5 ");
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
}

TEST_F(BlobPullsTest, AFileInTheFolderIsTakenWithoutAWord) {
  const BlobName blob = name(1, 1000);
  leave(kFirst, blob);
  take(kFirst, 5, {blob});
  EXPECT_EQ(stored(blob), content_of(1, 1000));
  EXPECT_EQ(ready(), "5 ");
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
}

TEST_F(BlobPullsTest, AWorkerThatSharesTheFolderAndLeftNothingThereIsNotAsked) {
  books_.sharing.insert(kFirst);
  take(kFirst, 5, {name(1, 1000)});
  EXPECT_EQ(ready(), "5!blob_lost ");
  const BlobName blob = name(2, 1000);
  leave(kFirst, {blob.id, 999});
  take(kFirst, 6, {blob});
  EXPECT_EQ(ready(), "6!result_too_large ");
  EXPECT_EQ(folder_.count(), 0U);
}

TEST_F(BlobPullsTest, AFileThatHasNoRoomNowWaitsForSome) {
  books_.sharing.insert(kFirst);
  const BlobName other = name(9, std::uint64_t{200} << 20);
  const BlobName large = name(1, std::uint64_t{200} << 20);
  const BlobName second = name(2, std::uint64_t{150} << 20);
  const BlobName huge = name(3, std::uint64_t{400} << 20);
  ASSERT_EQ(folder_.begin(other), "");
  for (const BlobName& blob : {large, second, huge}) leave_large(kFirst, blob);
  leave(kFirst, name(4, 100));
  take(kFirst, 5, {name(4, 100), large});
  take(kFirst, 6, {huge});
  EXPECT_EQ(ready(), "6!result_too_large ") << "there will never be room for it";
  EXPECT_FALSE(is_left(kFirst, huge));
  take(kFirst, 7, {second});
  take(kFirst, 7, {second});  // said again
  now_ += 50s;
  pulls_.tick(now_);
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  EXPECT_EQ(ready(), "");
  EXPECT_EQ(pulls_.held(), 2U);
  EXPECT_TRUE(is_left(kFirst, large));
  folder_.abandon(other.id);
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  EXPECT_TRUE(folder_.holds(large.id));
  EXPECT_FALSE(folder_.holds(second.id)) << "its turn comes when the first has gone";
  EXPECT_EQ(ready(), "5 ");
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  EXPECT_EQ(ready(), "7 ");
  EXPECT_EQ(pulls_.held(), 0U);
  EXPECT_EQ(folder_.memory_bytes(), 0U);
}

TEST_F(BlobPullsTest, AFileWaitsForRoomAsLongAsAnyOther) {
  books_.sharing.insert(kFirst);
  const BlobName other = name(9, std::uint64_t{200} << 20);
  const BlobName large = name(1, std::uint64_t{200} << 20);
  ASSERT_EQ(folder_.begin(other), "");
  leave_large(kFirst, large);
  take(kFirst, 5, {large});
  pulls_.take_wants(now_);
  now_ += 61s;
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "5!result_too_large ");
  EXPECT_NE(why_.find("had no room"), std::string::npos) << why_;
  EXPECT_FALSE(is_left(kFirst, large));
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
}

TEST_F(BlobPullsTest, AFileThatNobodyWantsAnyMoreDoesNotWait) {
  books_.sharing = {kFirst, kSecond};
  const BlobName other = name(9, std::uint64_t{200} << 20);
  ASSERT_EQ(folder_.begin(other), "");
  for (const WorkerId& worker : {kFirst, kSecond}) {
    leave_large(worker, name(worker.high, std::uint64_t{200} << 20));
    take(worker, worker.high, {name(worker.high, std::uint64_t{200} << 20)});
  }
  pulls_.take_wants(now_);
  books_.late.insert({kFirst, 1});
  books_.lost.insert(kSecond);
  pulls_complete_ = false;
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "1 ") << "for its acknowledgement";
  EXPECT_EQ(pulls_.held(), 0U);
  EXPECT_FALSE(is_left(kFirst, name(1, 0)));
  EXPECT_FALSE(is_left(kSecond, name(2, 0)));
}

TEST_F(BlobPullsTest, ChunksThatNobodyAskedForAreNothing) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, 3 * kChunk)});
  const auto wants = pulls_.take_wants(now_);
  ASSERT_EQ(wants.size(), 3U);
  const message::BlobChunk good = answer(wants[0].second);
  EXPECT_FALSE(pulls_.receive(kSecond, good, now_)) << "another worker";
  message::BlobChunk bad = good;
  bad.offset += 1;
  EXPECT_FALSE(pulls_.receive(kFirst, bad, now_));
  bad = good;
  bad.offset = UINT64_MAX;
  EXPECT_FALSE(pulls_.receive(kFirst, bad, now_));
  bad = good;
  bad.blob.low = 2;
  EXPECT_FALSE(pulls_.receive(kFirst, bad, now_));
  bad = good;
  bad.content.bytes = good.content.bytes.slice(0, kChunk - 1);
  EXPECT_FALSE(pulls_.receive(kFirst, bad, now_)) << "too short";
  bad.content = {Bytes::copy("no lz4"), static_cast<std::uint32_t>(kChunk)};
  EXPECT_FALSE(pulls_.receive(kFirst, bad, now_));
  EXPECT_TRUE(pulls_.receive(kFirst, good, now_));
  EXPECT_FALSE(pulls_.receive(kFirst, good, now_)) << "twice";
  EXPECT_FALSE(pulls_.receive(kSecond, message::BlobGone{{88, 1}, "x"}));
  EXPECT_FALSE(pulls_.receive(kFirst, message::BlobGone{{88, 2}, "x"}));
  for (std::size_t i = 1; i < wants.size(); ++i) {
    EXPECT_TRUE(pulls_.receive(kFirst, answer(wants[i].second), now_));
  }
  EXPECT_EQ(ready(), "5 ");
}

TEST_F(BlobPullsTest, WhatAWorkerLostEndsItsOutcomes) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, 100)});
  take(kFirst, 6, {name(2, 100), name(1, 100)});
  take(kFirst, 7, {name(3, 100)});
  ASSERT_EQ(pulls_.take_wants(now_).size(), 3U);
  EXPECT_TRUE(pulls_.receive(kFirst, message::BlobGone{{88, 1}, "it was removed"}));
  EXPECT_EQ(ready(), "5!blob_lost 6!blob_lost ");
  EXPECT_NE(why_.find("it was removed"), std::string::npos);
  EXPECT_TRUE(pulls_.receive(kFirst, answer({{88, 3}, 0, 100}), now_));
  EXPECT_EQ(ready(), "7 ");
  pulls_.tick(now_);  // nobody waits for the second any more
  EXPECT_EQ(folder_.memory_bytes(), 0U);
}

TEST_F(BlobPullsTest, WhatIsLargerThanTheStoreIsRefusedAtOnce) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, std::uint64_t{1} << 40)});
  take(kFirst, 6, {name(2, UINT64_MAX)});
  take(kFirst, 7, {name(3, 100)});
  answer_all();
  EXPECT_EQ(ready(), "5!result_too_large 6!result_too_large 7 ");
  EXPECT_NE(why_.find("no room"), std::string::npos) << why_;
  EXPECT_EQ(folder_.memory_bytes(), 0U);
}

TEST_F(BlobPullsTest, WhatHasNoRoomNowWaitsForSome) {
  const BlobName other = name(9, std::uint64_t{200} << 20);
  ASSERT_EQ(folder_.begin(other), "");
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, std::uint64_t{200} << 20)});
  take(kFirst, 6, {name(2, std::uint64_t{200} << 20)});
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  now_ += 50s;
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "");
  folder_.abandon(other.id);
  EXPECT_FALSE(pulls_.take_wants(now_).empty());
  pulls_.disconnected(kFirst, now_);
  now_ += 50s;
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "") << "it may come back";
  now_ += 11s;
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "5!blob_lost 6!blob_lost ");
  pulls_.tick(now_);
  EXPECT_EQ(folder_.memory_bytes(), 0U);
}

TEST_F(BlobPullsTest, NobodyWaitsForRoomForEver) {
  const BlobName other = name(9, std::uint64_t{200} << 20);
  ASSERT_EQ(folder_.begin(other), "");
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, std::uint64_t{200} << 20)});
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  now_ += 61s;
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "5!result_too_large ");
}

TEST_F(BlobPullsTest, ABrokenConnectionGoesOnWhereItStopped) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, 6 * kChunk)});
  const auto wants = pulls_.take_wants(now_);
  ASSERT_EQ(wants.size(), 6U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(pulls_.receive(kFirst, answer(wants[i].second), now_));
  }
  pulls_.disconnected(kFirst, now_);
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  EXPECT_FALSE(pulls_.receive(kFirst, answer(wants[4].second), now_));
  pulls_.connected(kFirst, now_);
  answer_all();
  EXPECT_EQ(asked_.size(), 2U) << "only what was missing";
  EXPECT_EQ(ready(), "5 ");
}

TEST_F(BlobPullsTest, ALostWorkerTakesItsOutcomesWithIt) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, 3 * kChunk)});
  leave(kFirst, name(2, 10));
  take(kFirst, 6, {name(2, 10), name(3, 10)});
  const auto wants = pulls_.take_wants(now_);
  EXPECT_TRUE(pulls_.receive(kFirst, answer(wants[0].second), now_));
  books_.lost.insert(kFirst);
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "");
  EXPECT_EQ(pulls_.held(), 0U);
  EXPECT_EQ(folder_.memory_bytes(), 0U);
  EXPECT_FALSE(pulls_.receive(kFirst, answer(wants[1].second), now_));
}

TEST_F(BlobPullsTest, AnOutcomeThatEndedOtherwiseGoesOnAndIsNotFetched) {
  pulls_.connected(kFirst, now_);
  take(kFirst, 5, {name(1, 30 * kChunk)});
  EXPECT_FALSE(pulls_.take_wants(now_).empty());
  books_.late.insert({kFirst, 5});
  pulls_complete_ = false;
  pulls_.tick(now_);
  EXPECT_EQ(ready(), "5 ") << "for its acknowledgement";
  EXPECT_TRUE(pulls_.take_wants(now_).empty());
  EXPECT_EQ(folder_.memory_bytes(), 0U);
}

TEST_F(BlobPullsTest, ManyWorkersShareWhatMayBeOnTheWay) {
  for (std::uint64_t i = 1; i <= 20; ++i) {
    pulls_.connected({i, 9}, now_);
    take({i, 9}, i, {name(i, 20 * kChunk)});
  }
  auto wants = pulls_.take_wants(now_);
  EXPECT_EQ(wants.size(), BlobPulls::kMostChunks);
  std::map<WorkerId, int> chunks;
  for (const auto& [worker, want] : wants) ++chunks[worker];
  EXPECT_GE(chunks.size(), 15U) << "none takes it all";
  for (const auto& [worker, want] : wants) EXPECT_TRUE(pulls_.receive(worker, answer(want), now_));
  EXPECT_EQ(pulls_.silent(now_ + 1s).size(), 0U) << "nobody owes anything now";
  wants = pulls_.take_wants(now_);
  EXPECT_FALSE(pulls_.silent(now_ + 1s).empty());
}

}  // namespace
}  // namespace muster
