// When a node is tried again.
#include "broker/ssh/backoff.hpp"

#include <gtest/gtest.h>

#include <chrono>

namespace muster {
namespace {

using namespace std::chrono_literals;

TEST(Backoff, DoublesFromAFifthOfASecondToHalfAMinute) {
  Backoff backoff;
  Time now = 1h;
  const double latest = 0.999999;
  Duration before = backoff.failed(false, now, latest);
  EXPECT_NEAR(static_cast<double>(before.count()), 0.2e9, 1e6);
  for (int i = 0; i < 6; ++i) {
    const Duration next = backoff.failed(false, now += before, latest);
    EXPECT_NEAR(static_cast<double>(next.count()), 2.0 * static_cast<double>(before.count()), 1e6);
    before = next;
  }
  for (int i = 0; i < 1000; ++i) before = backoff.failed(false, now += before, latest);
  EXPECT_LE(before, 30s);
  EXPECT_GT(before, 29s);
}

TEST(Backoff, SpreadsNodesThatFailedTogether) {
  Backoff early, late;
  for (int i = 0; i < 5; ++i) {
    const Duration first = early.failed(false, 1s, 0.0);
    const Duration last = late.failed(false, 1s, 0.999999);
    EXPECT_GE(first, 100ms);
    EXPECT_GT(last, first * 19 / 10);
  }
}

TEST(Backoff, StartsAnewAfterAGoodConnection) {
  Backoff backoff;
  Time now = 1h;
  for (int i = 0; i < 10; ++i) backoff.failed(false, now, 0.5);
  backoff.up(now);
  now += Backoff::kGoodAfter;
  EXPECT_LE(backoff.failed(false, now, 0.999999), 200ms);
}

TEST(Backoff, TakesAConnectionThatFlapsForAFailure) {
  Backoff backoff;
  Time now = 1h;
  Duration longest{};
  for (int i = 0; i < 20; ++i) {
    backoff.up(now);
    now += Backoff::kGoodAfter / 2;
    longest = backoff.failed(false, now, 0.999999);
    now += longest;
  }
  EXPECT_GT(longest, 29s);
}

TEST(Backoff, TriesWhatOnlyAPersonCanRepairAboutTwiceAMinute) {
  Backoff backoff;
  for (int i = 0; i < 10; ++i) {
    const Duration delay = backoff.failed(true, 1h, i / 10.0);
    EXPECT_GE(delay, 30s);
    EXPECT_LE(delay, 60s);
  }
  EXPECT_LE(backoff.failed(false, 1h, 0.5),
            200ms);  // the person mended it, and then something else
}

}  // namespace
}  // namespace muster
