#include "producer/client/absence.hpp"

#include <gtest/gtest.h>

namespace muster::detail {
namespace {

using namespace std::chrono_literals;

const std::chrono::system_clock::time_point kClock{};

Absence::Silence silent(Duration length, bool is_up = true) { return {length, 10s, 2s, is_up}; }

TEST(Absence, IsToldOnceAndItsEndToo) {
  Absence absence("ipc:///b", std::nullopt);
  EXPECT_FALSE(absence.concerns(silent(29s)));
  EXPECT_FALSE(absence.look(silent(29s), true, kClock)) << "a restart passes unseen";
  EXPECT_EQ(absence.next(silent(29s)), 1s);
  ASSERT_TRUE(absence.concerns(silent(30s)));
  const auto line = absence.look(silent(30s), true, kClock);
  ASSERT_TRUE(line);
  EXPECT_NE(line->find("waiting for the broker at ipc:///b"), std::string::npos) << *line;
  EXPECT_FALSE(absence.look(silent(8h), true, kClock));
  EXPECT_EQ(absence.next(silent(8h)), kNever);
  EXPECT_FALSE(absence.verdict(silent(8h))) << "it waits as long as it takes";
  EXPECT_FALSE(absence.look(silent(0s, false), true, kClock)) << "not welcome yet";
  const auto end = absence.look(silent(0s), true, kClock + 90s);
  ASSERT_TRUE(end);
  EXPECT_NE(end->find("answers again, after 120 s"), std::string::npos) << *end;
  EXPECT_FALSE(absence.look(silent(0s), true, kClock));
}

TEST(Absence, IsNotToldWhenNobodyWaits) {
  Absence absence("ipc:///b", std::nullopt);
  EXPECT_FALSE(absence.look(silent(30s), false, kClock));
  EXPECT_FALSE(absence.look(silent(0s), false, kClock));
}

TEST(Absence, EndsWaitsAfterItsLimit) {
  Absence absence("ipc:///b", 30s);
  EXPECT_FALSE(absence.verdict(silent(30s)));
  const auto error = absence.verdict(silent(30s + 1ns));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::disconnected);
  EXPECT_EQ(absence.next(silent(12s)), 18s);
  EXPECT_TRUE(absence.look(silent(30s), true, kClock));
  EXPECT_EQ(absence.next(silent(30s)), 1ns);
}

// While the link is up a broker with nothing to say speaks once per heartbeat interval only.
TEST(Absence, AnIdleBrokerIsNotSilent) {
  const Absence absence("ipc:///b", 300ms);
  EXPECT_FALSE(absence.verdict(silent(3s, true)));
  EXPECT_TRUE(absence.verdict(silent(3s, false)));
}

}  // namespace
}  // namespace muster::detail
