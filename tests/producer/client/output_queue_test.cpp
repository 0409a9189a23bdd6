// What tasks said, waiting for the application.
#include "producer/client/output_queue.hpp"

#include <gtest/gtest.h>

#include <string>
#include <thread>

namespace muster::detail {
namespace {

using namespace std::chrono_literals;

message::Output said(std::uint64_t first, std::size_t count, std::uint64_t dropped = 0,
                     std::size_t bytes = 4) {
  message::Output output{JobId{5}, "node7", {}, dropped};
  for (std::uint64_t i = 0; i < count; ++i) {
    output.lines.push_back(
        {TaskSequence{first + i}, OutputKind::error, 0, "", std::string(bytes, 'x')});
  }
  return output;
}

TEST(OutputQueue, LinesComeInOrderWithWhoSaidThem) {
  OutputQueue queue;
  EXPECT_TRUE(queue.take(0ms).empty());
  queue.push(said(0, 2));
  queue.push(said(2, 1, 7));
  const auto lines = queue.take(10s);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0].job, 5U);
  EXPECT_EQ(lines[0].node, "node7");
  EXPECT_EQ(lines[0].kind, OutputLine::Kind::error);
  EXPECT_EQ(lines[2].sequence, 2U);
  EXPECT_EQ(lines[1].dropped, 0U);
  EXPECT_EQ(lines[2].dropped, 7U);
}

TEST(OutputQueue, BeyondTheLimitTheOldestAreDroppedAndCounted) {
  OutputQueue queue;
  queue.push(said(0, 1, 3));
  for (std::uint64_t i = 0; i < 12; ++i) queue.push(said(1 + i * 1000, 1000));
  auto lines = queue.take(0ms);
  ASSERT_EQ(lines.size(), OutputQueue::kMaxLines);
  EXPECT_EQ(lines.front().dropped, 3U + 2001U);
  EXPECT_EQ(lines.front().sequence, 2001U);
  for (int i = 0; i < 70; ++i) queue.push(said(0, 1, 0, 1 << 20));
  lines = queue.take(0ms);
  EXPECT_LT(lines.size(), 65U);
  EXPECT_EQ(lines.size() + lines.front().dropped, 70U);
}

TEST(OutputQueue, ACountWithoutLinesWaitsForTheNextLine) {
  OutputQueue queue;
  queue.push(said(0, 0, 9));
  EXPECT_TRUE(queue.take(0ms).empty());
  queue.push(said(0, 1));
  EXPECT_EQ(queue.take(0ms).at(0).dropped, 9U);
}

TEST(OutputQueue, ClosingEndsAWait) {
  OutputQueue queue;
  std::thread closer([&] { queue.close(); });
  EXPECT_TRUE(queue.take(60s).empty());
  closer.join();
}

}  // namespace
}  // namespace muster::detail
