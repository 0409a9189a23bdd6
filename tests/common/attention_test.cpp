#include "common/attention.hpp"

#include <gtest/gtest.h>

namespace muster {
namespace {

using namespace std::chrono_literals;

constexpr Duration kInterval = 2s;

class AttentionTest : public ::testing::Test {
 protected:
  Time sleep(Duration planned, Duration slept) {
    attention_.sleeps(attention_.at(now_) + planned);
    now_ += slept;
    return attention_.wakes(now_, kInterval);
  }

  Time now_{1h};
  Attention attention_{now_};
};

TEST_F(AttentionTest, CountsAllTimeOfALoopThatWakesInTime) {
  for (int i = 0; i < 100; ++i) sleep(250ms, 250ms);
  EXPECT_EQ(sleep(10s, 3s), 1h + 25s + 3s) << "something woke it earlier";
}

TEST_F(AttentionTest, CountsTheDelaysOfABusyMachine) {
  EXPECT_EQ(sleep(250ms, 1200ms), 1h + 1200ms);
}

TEST_F(AttentionTest, GoesOnAtTheDeadlineThatAStandstillMissed) {
  EXPECT_EQ(sleep(2s, 95s), 1h + 3s);
  EXPECT_EQ(sleep(2s, 2s), 1h + 5s);
  EXPECT_EQ(sleep(2s, 8h), 1h + 8s);
}

TEST_F(AttentionTest, NoticesAStandstillInTheMiddleOfATurn) {
  attention_.sleeps(Time{0});  // there is more to do at once
  now_ += 1h;
  EXPECT_EQ(attention_.wakes(now_, kInterval), 1h + 1s);
}

TEST_F(AttentionTest, SleepsWithoutADeadlineAreNoStandstills) {
  attention_.sleeps(kNever);
  now_ += 1h;
  EXPECT_EQ(attention_.wakes(now_, kInterval), 2h);
}

TEST_F(AttentionTest, SaysWhenTheClockWillShowATime) {
  sleep(2s, 95s);
  EXPECT_EQ(attention_.clock(attention_.at(now_)), now_);
  EXPECT_EQ(attention_.clock(kNever), kNever);
}

TEST_F(AttentionTest, NeverStandsStillItselfHoweverBusyTheLoopIs) {
  const Time before = attention_.at(now_);
  for (int i = 0; i < 10; ++i) sleep(0s, 5s);
  EXPECT_EQ(attention_.at(now_) - before, 10s);
}

}  // namespace
}  // namespace muster
