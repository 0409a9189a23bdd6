// Watches of descriptors of which other processes hold copies, and whose place is taken over.
#include "worker/system/watch_set.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <utility>

namespace muster {
namespace {

// A pipe in which something waits to be read, and a copy of its reading end.
struct FullPipe {
  FullPipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe(ends.data()), 0);
    read = Watched(Descriptor(ends[0]));
    write = Descriptor(ends[1]);
    copy = Descriptor(::dup(ends[0]));
    EXPECT_EQ(::write(ends[1], "x", 1), 1);
  }
  Watched read;
  Descriptor write;
  Descriptor copy;
};

class WatchSets : public ::testing::Test {
 protected:
  bool is_ready() const {
    pollfd set{watches.descriptor(), POLLIN, 0};
    return ::poll(&set, 1, 0) == 1;
  }
  std::optional<std::uint32_t> next_slot() {
    const auto name = watches.next();
    return name ? std::optional(name->slot) : std::nullopt;
  }

  WatchSet watches;
};

TEST_F(WatchSets, NameWhatIsReady) {
  FullPipe pipe;
  EXPECT_FALSE(is_ready());
  ASSERT_TRUE(watches.watch(pipe.read, {7, 2}));
  EXPECT_TRUE(is_ready());
  watches.look();
  const auto name = watches.next();
  ASSERT_TRUE(name);
  EXPECT_EQ(name->slot, 7U);
  EXPECT_EQ(name->source, 2U);
  EXPECT_FALSE(watches.next());
}

TEST_F(WatchSets, SayNothingOfAClosedDescriptorOfWhichACopyIsOpen) {
  FullPipe pipe;
  ASSERT_TRUE(watches.watch(pipe.read, {}));
  pipe.read.reset();
  EXPECT_FALSE(is_ready());
  watches.look();
  EXPECT_FALSE(watches.next());
}

TEST_F(WatchSets, DropEventsOfAWatchThatEndedMeanwhile) {
  FullPipe first;
  FullPipe second;
  ASSERT_TRUE(watches.watch(first.read, {1, 0}));
  ASSERT_TRUE(watches.watch(second.read, {2, 0}));
  watches.look();
  ASSERT_TRUE(next_slot());
  first.read.reset();  // one of them was named, the other is not to be named any more
  second.read.reset();
  FullPipe heir;  // in the same place, under the same number
  ASSERT_TRUE(watches.watch(heir.read, {3, 0}));
  EXPECT_FALSE(next_slot());
  watches.look();
  EXPECT_EQ(next_slot(), 3U);
}

TEST_F(WatchSets, MoveWithTheirDescriptor) {
  FullPipe pipe;
  ASSERT_TRUE(watches.watch(pipe.read, {4, 0}));
  Watched other = std::move(pipe.read);
  pipe.read.reset();
  watches.look();
  EXPECT_EQ(next_slot(), 4U);
  other = Watched{};
  EXPECT_FALSE(is_ready());
}

TEST_F(WatchSets, WaitForWhatTheyAreTold) {
  FullPipe pipe;
  Watched write(std::move(pipe.write));
  ASSERT_TRUE(watches.watch(write, {5, 0}));
  EXPECT_FALSE(is_ready());
  write.wait_for(EPOLLIN | EPOLLOUT);
  watches.look();
  EXPECT_EQ(next_slot(), 5U);
  write.wait_for(EPOLLIN);
  EXPECT_FALSE(is_ready());
}

TEST_F(WatchSets, RefuseWhatCannotBeWatched) {
  Watched none;
  EXPECT_FALSE(watches.watch(none, {}));
  FullPipe pipe;
  ASSERT_TRUE(watches.watch(pipe.read, {6, 0}));
  watches.look();
  EXPECT_EQ(next_slot(), 6U);
}

}  // namespace
}  // namespace muster
