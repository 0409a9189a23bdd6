// Where a producer's blobs go when memory is short: a real folder is the broker's side.
#include "producer/blobs/blob_keeper.hpp"

#include <future>
#include <thread>

#include "tests/common/blobs/blob_folder_env.hpp"

namespace muster::detail {
namespace {

using testing::kMega;
using testing::wait_until;

class BlobKeeperTest : public testing::BlobFolderEnv {
 protected:
  void start(std::uint64_t memory_bytes) {
    open(memory_bytes, 1000 * kMega);
    keeper_ = std::make_shared<BlobKeeper>(SessionId{1, 2}, [] {});
    keeper_->take_terms(
        {blobs_->folders(), blobs_->token(), 1000 * kMega + memory_bytes, memory_bytes});
    ASSERT_TRUE(keeper_->shares());
  }
  ~BlobKeeperTest() override {
    if (keeper_) keeper_->close();
  }
  static std::string content(char first, std::uint64_t size) { return std::string(size, first); }
  // The argument of a task: no handle is left.
  Payload argument(char first, std::uint64_t size) {
    const std::string text = content(first, size);
    return keeper_->use({keeper_->scatter(testing::bytes_of(text))}, {});
  }
  // What the broker would be told.
  std::vector<BlobPlace> places_put() {
    std::vector<BlobPlace> places;
    for (const BlobKeeper::Order& order : keeper_->take_orders(kNever)) {
      const auto* source = std::get_if<BlobSource>(&order);
      if (source == nullptr) continue;
      places.push_back(source->place);
      EXPECT_EQ(blobs_->adopt(*source), "");
    }
    return places;
  }

  std::shared_ptr<BlobKeeper> keeper_;
};

TEST_F(BlobKeeperTest, WaitsForMemoryThatTasksWillLetGoOf) {
  constexpr std::uint64_t kSize = 100 * kMega;  // a second's worth of disk
  start(kSize + kMega);
  std::optional<Payload> first = argument('a', kSize);
  auto second = std::async(std::launch::async, [&] { return argument('b', kSize); });
  ASSERT_TRUE(wait_until([&] { return keeper_->awaited(); }));
  first.reset();
  second.get();
  EXPECT_EQ(places_put(), (std::vector{BlobPlace::memory, BlobPlace::memory}));
}

TEST_F(BlobKeeperTest, GoesToDiskWhenNobodyLetsGoOfMemory) {
  start(3 * kMega);
  const Payload first = argument('a', 2 * kMega);
  const Payload second = argument('b', 2 * kMega);  // waits as long as a disk would take
  EXPECT_EQ(places_put(), (std::vector{BlobPlace::memory, BlobPlace::disk}));
}

TEST_F(BlobKeeperTest, AWaitInPiecesEndsAsWell) {
  start(3 * kMega);
  const Payload first = argument('a', 2 * kMega);
  const std::string text = content('b', 2 * kMega);
  Blob blob;
  ASSERT_TRUE(wait_until([&] {  // as callers do that look for signals meanwhile
    blob = keeper_->scatter(testing::bytes_of(text), std::chrono::steady_clock::now());
    return static_cast<bool>(blob);
  }));
  EXPECT_EQ(places_put(), (std::vector{BlobPlace::memory, BlobPlace::disk}));
}

TEST_F(BlobKeeperTest, DoesNotWaitForMemoryThatHandlesHold) {
  start(101 * kMega);
  const std::string text = content('a', 100 * kMega);
  const Blob held = keeper_->scatter(testing::bytes_of(text));
  const std::string other = content('b', 100 * kMega);
  const Blob blob = keeper_->scatter(testing::bytes_of(other), std::chrono::steady_clock::now());
  EXPECT_TRUE(static_cast<bool>(blob)) << "at once";
  EXPECT_EQ(places_put(), (std::vector{BlobPlace::memory, BlobPlace::disk}));
}

}  // namespace
}  // namespace muster::detail
