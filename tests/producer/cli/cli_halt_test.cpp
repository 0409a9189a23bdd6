// --halt and exit statuses: the numbers are those GNU parallel 20221122 gives.
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "producer/cli/run/halt_policy.hpp"

namespace muster {
namespace {

struct Verdict {
  HaltRule::When when;
  std::uint64_t after;  // jobs
  int exit_status;
};

// Lets jobs end with these statuses, one after the other, until the rule says stop.
Verdict judge(const std::string& rule, std::initializer_list<int> statuses) {
  const auto parsed = parse_halt(rule);
  EXPECT_TRUE(parsed.has_value()) << rule;
  HaltPolicy policy(parsed.value_or(HaltRule{}), statuses.size());
  for (const int status : statuses) {
    policy.finished(status);
    if (policy.verdict() != HaltRule::When::never) break;
  }
  return {policy.verdict(), policy.done(), policy.exit_status()};
}

void expect(const Verdict& verdict, HaltRule::When when, std::uint64_t after, int exit_status) {
  EXPECT_EQ(verdict.when, when);
  EXPECT_EQ(verdict.after, after);
  EXPECT_EQ(verdict.exit_status, exit_status);
}

constexpr auto kNever = HaltRule::When::never;
constexpr auto kNow = HaltRule::When::now;
constexpr auto kSoon = HaltRule::When::soon;

TEST(HaltPolicy, CountsFailures) {
  expect(judge("never", {0, 0}), kNever, 2, 0);
  expect(judge("never", {0, 7, 255, 0}), kNever, 4, 2);
}

TEST(HaltPolicy, SaysMoreThanAHundred) {
  HaltPolicy policy(HaltRule{}, 0);
  for (int job = 0; job < 100; ++job) policy.finished(1);
  EXPECT_EQ(policy.exit_status(), 100);
  policy.finished(1);
  EXPECT_EQ(policy.exit_status(), 101);
  policy.finished(1);
  EXPECT_EQ(policy.exit_status(), 101);
}

TEST(HaltPolicy, OneFailureGivesTheStatusOfThatJob) {
  expect(judge("now,fail=1", {0, 7, 0, 3}), kNow, 2, 7);
  expect(judge("soon,fail=1", {0, 7, 0, 3}), kSoon, 2, 7);
  expect(judge("now,fail=1", {0, 137}), kNow, 2, 137);
}

TEST(HaltPolicy, SeveralFailuresGiveTheirNumber) {
  expect(judge("soon,fail=2", {0, 3, 4, 0}), kSoon, 3, 2);
}

TEST(HaltPolicy, SuccessGivesZeroEvenAfterFailures) {
  expect(judge("now,success=1", {3, 0, 0, 3}), kNow, 2, 0);
  expect(judge("now,success=1", {3, 4}), kNever, 2, 2);
}

TEST(HaltPolicy, DoneCountsBoth) { expect(judge("soon,done=2", {3, 4, 0, 3}), kSoon, 2, 2); }

TEST(HaltPolicy, PerCentIsOfAllJobs) {
  expect(judge("now,fail=50%", {3, 4, 0, 5}), kNow, 2, 50);
  expect(judge("soon,fail=99%", {0, 3, 4, 0, 0}), kNever, 5, 40);
}

TEST(HaltPolicy, AfterTheVerdictTheStatusStays) {
  HaltPolicy policy(*parse_halt("soon,fail=1"), 0);
  policy.finished(9);
  policy.finished(1);
  EXPECT_EQ(policy.exit_status(), 9);
  EXPECT_EQ(policy.failed(), 2U);
}

TEST(ParseHalt, ReadsTheOldForms) {
  EXPECT_EQ(parse_halt("0")->when, kNever);
  EXPECT_EQ(parse_halt("1")->when, kSoon);
  EXPECT_EQ(parse_halt("2")->when, kNow);
  EXPECT_EQ(parse_halt("-1")->why, HaltRule::Why::success);
  EXPECT_TRUE(parse_halt("10%")->percent);
}

TEST(ParseHalt, RefusesWhatIsNoRule) {
  for (const char* text : {"", "now", "now,fail", "now,fail=", "now,fail=0", "now,fail=-1",
                           "later,fail=1", "now,lost=1", "now,fail=101%", "now,fail=1.5",
                           "now=fail,1", "now,fail=1x", "now,fail=nan", "%"}) {
    EXPECT_FALSE(parse_halt(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace muster
