// When a guest makes room for the machine's owner. Time moves by hand.
#include "worker/system/load.hpp"

#include <gtest/gtest.h>

namespace muster {
namespace {

using namespace std::chrono_literals;

class Guest : public ::testing::Test {
 protected:
  // So many seconds pass in which others keep `cores` busy.
  void pass(int seconds, double cores) {
    for (int i = 0; i < seconds; ++i) {
      now_ += 1s;
      others_ += Duration(static_cast<std::int64_t>(cores * 1e9));
      guard_.sample(others_, now_);
    }
  }
  LoadGuard guard_{2.0};
  Time now_ = 100s;
  Duration others_ = 5000s;
};

TEST_F(Guest, PausesWhenOthersKeepTheLimitBusyForAWhile) {
  pass(10, 0.5);
  EXPECT_EQ(guard_.reason(), "");
  pass(1, 4.0);
  EXPECT_EQ(guard_.reason(), "") << "one second is no load";
  pass(2, 4.0);
  EXPECT_NE(guard_.reason().find("others keep "), std::string::npos);
  EXPECT_NE(guard_.reason().find("(limit 2)"), std::string::npos) << guard_.reason();
}

TEST_F(Guest, GoesOnOnlyAfterALongCalm) {
  pass(5, 3.0);
  const std::string reason = guard_.reason();
  EXPECT_EQ(reason, "others keep 3.0 cores busy (limit 2)");
  pass(9, 0.1);
  EXPECT_EQ(guard_.reason(), reason) << "and it says the same all the time";
  pass(3, 3.0);
  pass(10, 0.1);
  EXPECT_EQ(guard_.reason(), reason) << "the calm was broken";
  pass(4, 0.1);
  EXPECT_EQ(guard_.reason(), "");
}

TEST_F(Guest, AJustStartedOneKnowsNothingYet) {
  pass(3, 8.0);
  EXPECT_EQ(guard_.reason(), "") << "three samples span two seconds";
  pass(1, 8.0);
  EXPECT_NE(guard_.reason(), "");
}

}  // namespace
}  // namespace muster
