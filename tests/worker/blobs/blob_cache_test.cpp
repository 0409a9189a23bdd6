// Stories about a node's cache of blobs: what it asks the broker for, in which order, and what it
// does when the connection, the room or the broker is missing. Files are real, time moves by hand.
#include "worker/blobs/blob_cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/protocol/codec.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

constexpr std::uint64_t kChunk = limits::kBlobChunkBytes;
constexpr const char* kOwner = "worker";

BlobName name_of_blob(std::uint64_t number, std::uint64_t size_bytes) {
  return {{9, number}, size_bytes};
}

class Cache : public ::testing::Test {
 protected:
  explicit Cache(std::uint64_t memory_bytes = 64 * kChunk) {
    BlobFolderOptions options;
    options.memory = folder_.path("memory");
    options.disk = folder_.path("disk");
    options.memory_limit_bytes = memory_bytes;
    files_ = std::make_unique<BlobFolder>(options);
    cache_ = std::make_unique<BlobCache>(*files_, kOwner, memory_bytes);
  }

  // --- The agent's words
  void ask(BlobRequest::Kind kind, const BlobName& name) { cache_->obey({kind, name}, now_); }
  void fetch(const BlobName& name) { ask(BlobRequest::Kind::fetch, name); }
  void release(const BlobName& name) { ask(BlobRequest::Kind::release, name); }
  void connect() { cache_->connected(now_); }
  void advance(Duration by) {
    now_ += by;
    cache_->tick(now_);
  }

  // What it asked the broker for, as "number@chunk", since the last look.
  std::string wants() {
    std::string text;
    for (const message::BlobWant& want : take_wants()) {
      text += std::to_string(want.blob.low) + "@" + std::to_string(want.offset / kChunk) + " ";
    }
    return text;
  }
  std::vector<message::BlobWant> take_wants() {
    std::vector<message::BlobWant> wants;
    for (const Message& message : cache_->take_messages()) {
      auto decoded = decode(encode(message, Packing::never));
      if (!std::holds_alternative<Message>(decoded)) {
        ADD_FAILURE() << "the codec refuses " << name_of(message);
        continue;
      }
      wants.push_back(std::get<message::BlobWant>(std::get<Message>(decoded)));
    }
    return wants;
  }
  static std::string content(const BlobId& id, std::uint64_t offset, std::uint64_t bytes) {
    std::string text(bytes, ' ');
    for (std::uint64_t i = 0; i < bytes; ++i) {
      text[i] = static_cast<char>('a' + (id.low + (offset + i) / 1000) % 26);
    }
    return text;
  }
  void answer(const message::BlobWant& want) {
    message::BlobChunk chunk{
        want.blob, want.offset, {Bytes::copy(content(want.blob, want.offset, want.bytes)), 0, 0}};
    cache_->receive(chunk, now_);
  }
  // Until nothing more is asked for; how many bytes were sent.
  std::uint64_t answer_all() {
    std::uint64_t bytes = 0;
    for (auto wants = take_wants(); !wants.empty(); wants = take_wants()) {
      for (const message::BlobWant& want : wants) {
        bytes += want.bytes;
        answer(want);
      }
    }
    return bytes;
  }
  // "here 1, gone 2, " since the last look.
  std::string reports() {
    std::string text;
    for (const BlobReport& report : cache_->take_reports()) {
      constexpr const char* kWords[] = {"here", "gone", "blocked", "evicted"};
      text += std::string(kWords[static_cast<int>(report.kind)]) + " " +
              std::to_string(report.blob.low) + ", ";
      reason_ = report.reason;
    }
    return text;
  }
  std::string read(const BlobName& name) const {
    std::ifstream file(files_->path(name.id));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write_result(const BlobName& name, const std::string& text) const {
    std::ofstream(folder_.path("memory/incoming/") + to_hex(name.id) + "." + kOwner) << text;
  }

  testing::TemporaryFolder folder_;
  Time now_ = std::chrono::seconds(100);
  std::unique_ptr<BlobFolder> files_;
  std::unique_ptr<BlobCache> cache_;
  std::string reason_;
};

TEST_F(Cache, BringsABlobInPiecesAndNeverMoreThanSomeAhead) {
  const BlobName blob = name_of_blob(1, 20 * kChunk + 7);
  EXPECT_FALSE(cache_->needs_connection());
  fetch(blob);
  EXPECT_TRUE(cache_->needs_connection());
  EXPECT_EQ(wants(), "") << "nobody is connected";
  connect();
  auto wanted = take_wants();
  ASSERT_EQ(wanted.size(), limits::kBlobChunksAhead);
  std::reverse(wanted.begin(), wanted.end());  // any order will do
  std::uint64_t bytes = 0;
  for (const message::BlobWant& want : wanted) {
    bytes += want.bytes;
    answer(want);
  }
  EXPECT_EQ(reports(), "");
  EXPECT_EQ(bytes + answer_all(), blob.size_bytes);
  EXPECT_EQ(reports(), "here 1, ");
  EXPECT_EQ(read(blob), content(blob.id, 0, blob.size_bytes));
  EXPECT_FALSE(cache_->needs_connection());
}

TEST_F(Cache, WhatIsHereIsNotFetchedAgain) {
  const BlobName blob = name_of_blob(1, 10);
  const BlobName empty = name_of_blob(2, 0);
  connect();
  fetch(blob);
  fetch(blob);
  fetch(empty);
  EXPECT_EQ(answer_all(), 10U);
  EXPECT_EQ(reports(), "here 2, here 1, ");
  release(blob);
  fetch(blob);
  EXPECT_EQ(wants(), "");
  EXPECT_EQ(reports(), "here 1, ");
}

TEST_F(Cache, ABlobThatNobodyNeedsStaysAWhile) {
  const BlobName blob = name_of_blob(1, 10);
  connect();
  fetch(blob);
  answer_all();
  advance(std::chrono::hours(1));
  EXPECT_EQ(reports(), "here 1, ") << "a lease needs it";
  release(blob);
  advance(std::chrono::seconds(59));
  EXPECT_EQ(reports(), "");
  advance(std::chrono::seconds(2));
  EXPECT_EQ(reports(), "evicted 1, ");
  EXPECT_FALSE(std::filesystem::exists(folder_.path("memory/") + to_hex(blob.id)));
}

TEST_F(Cache, ABrokenConnectionCostsThePiecesThatWereOnTheirWay) {
  const BlobName blob = name_of_blob(1, 30 * kChunk);
  fetch(blob);
  connect();
  const auto first = take_wants();
  for (std::size_t i = 0; i < 10; ++i) answer(first[i]);
  const auto lost = take_wants();
  ASSERT_EQ(lost.size(), 10U);
  cache_->disconnected();
  answer(lost[0]);  // of the connection before
  EXPECT_EQ(wants(), "");
  connect();
  EXPECT_EQ(answer_all(), 20 * kChunk);
  EXPECT_EQ(reports(), "here 1, ");
  EXPECT_EQ(read(blob), content(blob.id, 0, blob.size_bytes));
}

TEST_F(Cache, ASmallBlobPassesALargeOneAndTheLargeOneGoesOn) {
  connect();
  fetch(name_of_blob(1, 40 * kChunk));
  const auto ahead = take_wants();
  fetch(name_of_blob(2, 5 * kChunk));
  EXPECT_EQ(wants(), "") << "no more is asked for than is to be ahead";
  std::string order;
  for (std::size_t i = 0; i < 8; ++i) {
    answer(ahead[i]);
    order += wants();
  }
  EXPECT_EQ(order, "2@0 2@1 2@2 1@12 2@3 2@4 1@13 1@14 ");
}

TEST_F(Cache, ABlobThatTheBrokerDoesNotHaveIsGone) {
  connect();
  const BlobName blob = name_of_blob(1, 3 * kChunk);
  fetch(blob);
  wants();
  cache_->receive(message::BlobGone{blob.id, "its producer left"}, now_);
  cache_->receive(message::BlobGone{blob.id, "its producer left"}, now_);
  EXPECT_EQ(reports(), "gone 1, ");
  EXPECT_EQ(reason_, "its producer left");
  EXPECT_EQ(files_->memory_bytes(), 0U);
  fetch(blob);
  EXPECT_EQ(answer_all(), blob.size_bytes);
}

TEST_F(Cache, ARestartedBrokerMayStillHearOfTheBlobFromItsProducer) {
  const BlobName blob = name_of_blob(1, 10);
  fetch(blob);
  connect();
  cache_->be_patient(now_);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(wants(), "1@0 ");
    cache_->receive(message::BlobGone{blob.id, "not here"}, now_);
    EXPECT_EQ(wants(), "");
    EXPECT_LE(cache_->next_deadline(), now_ + std::chrono::seconds(1));
    advance(std::chrono::seconds(1));
  }
  EXPECT_EQ(reports(), "");
  advance(std::chrono::seconds(60));
  cache_->receive(message::BlobGone{blob.id, "not here"}, now_);
  EXPECT_EQ(reports(), "gone 1, ");
}

TEST_F(Cache, ReleasedInMidTransferItLeavesNothing) {
  connect();
  const BlobName blob = name_of_blob(1, 30 * kChunk);
  fetch(blob);
  const auto ahead = take_wants();
  answer(ahead[0]);
  EXPECT_EQ(wants(), "1@12 ");
  release(blob);
  EXPECT_EQ(files_->memory_bytes(), 0U);
  EXPECT_FALSE(cache_->needs_connection());
  fetch(blob);
  EXPECT_EQ(wants(), "") << "as much as may be ahead is on its way";
  for (std::size_t i = 1; i < ahead.size(); ++i) answer(ahead[i]);
  answer({blob.id, 12 * kChunk, kChunk});
  EXPECT_EQ(answer_all(), blob.size_bytes);
  EXPECT_EQ(reports(), "here 1, ");
}

TEST_F(Cache, ADamagedPieceIsFetchedOnceMore) {
  connect();
  const BlobName blob = name_of_blob(1, 10);
  fetch(blob);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(wants(), "1@0 ");
    message::BlobChunk chunk{blob.id, 0, {Bytes::copy("short"), 0, 0}};
    cache_->receive(chunk, now_);
  }
  EXPECT_EQ(wants(), "");
  EXPECT_EQ(reports(), "gone 1, ");
}

TEST_F(Cache, PackedPiecesAreUnpacked) {
  connect();
  const BlobName blob = name_of_blob(1, 100'000);
  fetch(blob);
  ASSERT_EQ(wants(), "1@0 ");
  const std::string text(100'000, 'x');
  message::BlobChunk chunk{blob.id, 0, pack_payload(Bytes::copy(text), Packing::when_smaller)};
  ASSERT_NE(chunk.content.unpacked_bytes, 0U);
  cache_->receive(chunk, now_);
  EXPECT_EQ(reports(), "here 1, ");
  EXPECT_EQ(read(blob), text);
}

TEST_F(Cache, AResultIsServedUntilItIsDropped) {
  connect();
  const BlobName result = name_of_blob(1, 11);
  write_result(result, "hello world");
  ask(BlobRequest::Kind::keep, result);
  EXPECT_TRUE(cache_->needs_connection()) << "the broker asks for it there";
  cache_->receive(message::BlobWant{result.id, 6, 5});
  auto messages = cache_->take_messages();
  ASSERT_EQ(messages.size(), 1U);
  const auto chunk = std::get<message::BlobChunk>(messages[0]);
  EXPECT_EQ(chunk.offset, 6U);
  EXPECT_EQ(chunk.content.bytes.text(), "world");
  advance(std::chrono::hours(1));
  EXPECT_TRUE(files_->holds(result.id));
  ask(BlobRequest::Kind::drop, result);
  EXPECT_FALSE(files_->holds(result.id));
  cache_->receive(message::BlobWant{result.id, 6, 5});
  messages = cache_->take_messages();
  EXPECT_TRUE(std::holds_alternative<message::BlobGone>(messages.at(0)));
}

TEST_F(Cache, AResultThatCannotBeKeptSaysWhyWhenItIsAskedFor) {
  connect();
  const BlobName result = name_of_blob(1, 11);
  write_result(result, "too short");
  ask(BlobRequest::Kind::keep, result);
  cache_->receive(message::BlobWant{result.id, 0, 5});
  const auto messages = cache_->take_messages();
  const auto gone = std::get<message::BlobGone>(messages.at(0));
  EXPECT_NE(gone.reason.find("is not a file of 11 bytes"), std::string::npos) << gone.reason;
}

class SmallCache : public Cache {
 protected:
  SmallCache() : Cache(10 * kChunk) {}
};

TEST_F(SmallCache, BlobsThatNobodyNeedsMakeRoom) {
  connect();
  for (std::uint64_t i = 1; i <= 3; ++i) {
    const BlobName blob = name_of_blob(i, 4 * kChunk);
    fetch(blob);
    EXPECT_EQ(answer_all(), blob.size_bytes);
    release(blob);
  }
  advance(Duration{});
  EXPECT_EQ(reports(), "here 1, here 2, here 3, evicted 1, ");
  EXPECT_LE(files_->memory_bytes(), 10 * kChunk);
}

TEST_F(SmallCache, ABlobWaitsForRoomAndSmallerOnesPassIt) {
  connect();
  const BlobName first = name_of_blob(1, 9 * kChunk);
  fetch(first);
  answer_all();
  EXPECT_EQ(reports(), "here 1, ");
  const BlobName second = name_of_blob(2, 9 * kChunk);
  fetch(second);
  EXPECT_EQ(reports(), "blocked 2, ");
  EXPECT_NE(reason_.find("no room"), std::string::npos) << reason_;
  fetch(name_of_blob(3, 10));
  EXPECT_EQ(answer_all(), 10U);
  EXPECT_EQ(reports(), "here 3, ");
  advance(std::chrono::seconds(2));
  EXPECT_EQ(reports(), "") << "it is said once";
  release(name_of_blob(3, 10));
  EXPECT_EQ(reports(), "blocked 2, ") << "and again after every release";
  release(first);
  EXPECT_EQ(answer_all(), second.size_bytes);
  EXPECT_EQ(reports(), "here 2, ");
}

TEST_F(SmallCache, WhatCanNeverFitIsGoneAtOnce) {
  fetch(name_of_blob(1, 11 * kChunk));
  EXPECT_EQ(reports(), "gone 1, ");
  EXPECT_NE(reason_.find("--blob-memory"), std::string::npos) << reason_;
}

}  // namespace
}  // namespace muster
