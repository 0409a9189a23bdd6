// What a producer says of results that its program has received and not consumed.
#include "producer/client/held_results.hpp"

#include "tests/producer/session/session_env.hpp"

namespace muster::test {
namespace {

constexpr std::uint64_t kStep = limits::kHeldStepBytes;

void expect_held(SessionEnv& env, JobId job, std::uint64_t bytes, std::uint64_t of_all) {
  const auto held = env.expect<message::ResultsHeld>();
  EXPECT_EQ(held.job, job);
  EXPECT_EQ(held.job_bytes, bytes);
  EXPECT_EQ(held.session_bytes, of_all);
}

TEST(HeldResults, AProgramThatConsumesWhatComesSaysNothing) {
  HeldResults held;
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(held.add(kStep - 1));
    EXPECT_FALSE(held.remove(kStep - 1));
  }
}

TEST(HeldResults, AreSaidInStepsUpAndDown) {
  HeldResults held;
  EXPECT_EQ(held.add(kStep), kStep);
  EXPECT_FALSE(held.add(kStep - 1));
  EXPECT_EQ(held.add(1), 2 * kStep);
  EXPECT_FALSE(held.remove(1)) << "two steps do not take turns";
  EXPECT_FALSE(held.add(1));
  EXPECT_EQ(held.remove(kStep), kStep);
  EXPECT_EQ(held.remove(1), 0U) << "less than a step is as good as nothing";
}

TEST(HeldResults, NothingIsLeftWhenAllIsConsumed) {
  HeldResults held;
  held.add(10 * kStep + 5);
  EXPECT_EQ(held.remove(UINT64_MAX), 0U);
  EXPECT_EQ(held.bytes(), 0U);
}

TEST(SessionResults, AreSaidWithTheSumOfAllJobs) {
  SessionEnv env;
  env.connect_and_welcome();
  const JobId first = env.open();
  const JobId second = env.open();
  env.submit(first);
  env.submit(second);
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.session.hold_results(first, 100);
  expect_held(env, first, 100, 100);
  env.session.hold_results(second, 20);
  expect_held(env, second, 20, 120);
  env.session.hold_results(second, 20);
  env.expect_nothing();
  env.session.hold_results(first, 0);
  expect_held(env, first, 0, 20);
  env.session.hold_results(first, 0);
}

TEST(SessionResults, AreSaidAgainToANewBrokerAndOnceMoreWhenItKnowsTheJob) {
  SessionEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit(job);
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.session.hold_results(job, 100);
  expect_held(env, job, 100, 100);
  ++env.incarnation;
  env.connect();
  env.session.hold_results(job, 50);
  env.welcome();
  expect_held(env, job, 50, 50);
  env.expect<message::Job>();
  expect_held(env, job, 50, 50);
  env.expect<message::Submit>();
}

TEST(SessionResults, OfAJobThatEndedAreSaidUntilTheyAreConsumed) {
  SessionEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit(job);
  env.session.end_job(job);
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.expect<message::EndJob>();
  env.finish(job, 0);
  env.expect<message::AcknowledgeOutcomes>();
  ASSERT_EQ(env.session.jobs(), 0U);
  env.session.hold_results(job, 100);
  expect_held(env, job, 100, 100);
  env.session.hold_results(job, 0);
  expect_held(env, job, 0, 0);
}

}  // namespace
}  // namespace muster::test
