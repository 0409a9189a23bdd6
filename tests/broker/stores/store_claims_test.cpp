// Who computes and who waits: each value once, and no wait without an end.
#include "broker/stores/store_claims.hpp"

#include <gtest/gtest.h>

#include <random>

namespace muster {
namespace {

using std::chrono::seconds;
using Answer = StoreClaims::Answer;

constexpr Duration kPatience = seconds(10);
const StoreOrigin kWorker{true, 1, 1};
const StoreOrigin kProducer{false, 2, 2};
const ValueName kKey{"store", "f/1"};
const ValueName kOther{"store", "f/2"};

StoreAsker task(std::uint64_t number) { return {kWorker, number}; }

class ClaimsTest : public ::testing::Test {
 protected:
  Answer claim(const StoreAsker& asker, const ValueName& name = kKey, bool may_block = false) {
    const Answer answer = claims_.claim(name, asker, asker.claimant, may_block, now_);
    claims_.check_invariants();
    return answer;
  }
  // Who may go on.
  std::vector<std::uint64_t> tokens(const std::vector<StoreClaims::Wait>& waits) {
    claims_.check_invariants();
    std::vector<std::uint64_t> all;
    for (const StoreClaims::Wait& wait : waits) all.push_back(wait.token);
    return all;
  }
  using Tokens = std::vector<std::uint64_t>;

  StoreClaims claims_{kPatience};
  Time now_{seconds(100)};
};

TEST_F(ClaimsTest, TheFirstComputesAndTheOthersGetWhatItPuts) {
  EXPECT_EQ(claim(task(1)), Answer::yours);
  EXPECT_EQ(claim(task(2)), Answer::wait);
  EXPECT_EQ(claim(task(3)), Answer::wait);
  EXPECT_EQ(claim(task(1)), Answer::yours) << "it asks again";
  EXPECT_EQ(claim(task(4), kOther), Answer::yours) << "another key is another's";
  EXPECT_EQ(tokens(claims_.put(kKey)), (Tokens{2, 3}));
  EXPECT_EQ(claims_.claims(), 1U);
}

TEST_F(ClaimsTest, GivingUpAClaimLetsEveryWaiterCompute) {
  claim(task(1));
  claim(task(2));
  claim(task(3));
  EXPECT_EQ(tokens(claims_.release(kKey, task(9))), Tokens{}) << "it is not its claim";
  EXPECT_EQ(tokens(claims_.release(kKey, task(1))), (Tokens{2, 3}));
  EXPECT_EQ(claim(task(4)), Answer::wait) << "for the first of those";
  EXPECT_EQ(tokens(claims_.put(kKey)), Tokens{4});
}

TEST_F(ClaimsTest, TheNextInLineComputesForOneThatDied) {
  claim(task(1));
  claim(task(2));
  claim(task(3));
  EXPECT_EQ(tokens(claims_.leave(task(1))), Tokens{2});
  EXPECT_EQ(tokens(claims_.leave(task(3))), Tokens{}) << "it only waited";
  EXPECT_EQ(tokens(claims_.leave(task(2))), Tokens{});
  EXPECT_EQ(claims_.claims(), 0U);
}

TEST_F(ClaimsTest, AWorkerThatIsLostTakesItsClaimsAndWaitsAlong) {
  const StoreAsker elsewhere{{true, 7, 7}, 70};
  claim(task(1));
  claim(task(2));
  claim(elsewhere);
  claim(elsewhere, kOther);
  EXPECT_EQ(tokens(claims_.gone(kWorker)), Tokens{}) << "its wait ended when it asked for more";
  EXPECT_EQ(claim(task(3)), Answer::yours);
  claims_.gone(elsewhere.origin);
  EXPECT_EQ(claim(task(4), kOther), Answer::yours);
}

TEST_F(ClaimsTest, NobodyWaitsInACircle) {
  claim(task(1), kKey);
  claim(task(2), kOther);
  EXPECT_EQ(claim(task(1), kOther), Answer::wait);
  EXPECT_EQ(claim(task(2), kKey), Answer::yours) << "the other waits for it";
  EXPECT_EQ(tokens(claims_.put(kOther)), Tokens{1});
}

TEST_F(ClaimsTest, WaitsForOneThatMayBlockEndAfterAWhile) {
  const StoreAsker producer{kProducer, 5};
  claim(producer, kKey, true);
  claim(task(1));
  now_ += seconds(4);
  claim(task(2));
  EXPECT_EQ(claims_.next_deadline(), seconds(110));
  now_ = seconds(110);
  EXPECT_EQ(tokens(claims_.tick(now_)), Tokens{1});
  EXPECT_EQ(tokens(claims_.put(kKey)), Tokens{2}) << "whoever puts it";
  claim(task(1));
  claim(task(2));
  now_ += std::chrono::hours(10);
  EXPECT_EQ(tokens(claims_.tick(now_)), Tokens{}) << "a task that computes is waited for";
  EXPECT_EQ(claims_.next_deadline(), kNever);
}

TEST_F(ClaimsTest, AnyOrderOfEventsKeepsTheTablesRightAndEveryWaitEnds) {
  std::mt19937 random(17);
  const auto below = [&](unsigned count) { return random() % count; };
  for (int step = 0; step < 20'000; ++step) {
    const StoreAsker asker{below(2) == 0 ? kWorker : kProducer, 1 + below(6)};
    const ValueName name{"s", std::string(1, static_cast<char>('a' + below(4)))};
    now_ += seconds(below(3));
    switch (below(8)) {
      case 0:
        claims_.put(name);
        break;
      case 1:
        claims_.release(name, asker);
        break;
      case 2:
        claims_.leave(asker);
        break;
      case 3:
        claims_.tick(now_);
        break;
      case 4:
        if (below(20) == 0) claims_.gone(asker.origin);
        break;
      default:
        claims_.claim(name, asker, static_cast<std::uint64_t>(step), !asker.origin.is_worker, now_);
        break;
    }
    claims_.check_invariants();
  }
  for (std::uint64_t number = 1; number <= 6; ++number) {
    claims_.leave({kWorker, number});
    claims_.leave({kProducer, number});
  }
  claims_.check_invariants();
  EXPECT_EQ(claims_.claims() + claims_.waits(), 0U);
}

}  // namespace
}  // namespace muster
