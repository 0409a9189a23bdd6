// Broken links: reconnecting to the same and to another incarnation, silence, refusal, hostility.
#include "tests/producer/session/session_env.hpp"

namespace muster::test {
namespace {

// A job of `count` tasks, all sent.
JobId start(SessionEnv& env, int count) {
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, count);
  env.expect<message::Job>();
  env.expect_submit(job, 0, static_cast<std::size_t>(count));
  return job;
}

TEST(SessionLink, ResendsFromWhatTheSameBrokerHas) {
  SessionEnv env;
  const JobId job = start(env, 10);
  env.finish(job, 0, 2);
  env.finish(job, 4, 1);
  env.expect_acknowledged(job, {range(0, 2)});
  env.expect_acknowledged(job, {range(4, 1)});
  env.connect();
  env.welcome({progress(job, 6)});
  env.expect_acknowledged(job, {range(0, 2), range(4, 1)});  // those may be lost
  env.expect_submit(job, 6, 4);
  EXPECT_EQ(env.session.tasks_at_broker(), 7U);
  env.finish(job, 2, 8);
  env.expect_acknowledged(job, {range(2, 8)});
  EXPECT_EQ(env.delivered(job), 10U);
}

TEST(SessionLink, ResendsEverythingWithoutOutcomeToANewBroker) {
  SessionEnv env;
  const JobId job = start(env, 10);
  env.session.end_job(job);
  env.expect<message::EndJob>();
  env.finish(job, 0, 2);
  env.finish(job, 5, 2);
  env.expect_acknowledged(job, {range(0, 2)});
  env.expect_acknowledged(job, {range(5, 2)});
  env.incarnation = 2;
  env.hear(message::Unknown{Incarnation{7, 2}});
  env.connect();
  env.collect();
  EXPECT_FALSE(env.expect<message::HelloProducer>().session.is_zero());
  env.welcome();
  env.expect<message::Job>();
  env.expect_submit(job, 2, 3);
  env.expect_submit(job, 7, 3);
  env.expect<message::EndJob>();
  env.finish(job, 2, 3);
  env.finish(job, 7, 3);
  env.expect_acknowledged(job, {range(2, 3)});
  env.expect_acknowledged(job, {range(7, 3)});
  EXPECT_EQ(env.delivered(job), 10U);
  EXPECT_EQ(env.session.jobs(), 0U);
}

TEST(SessionLink, SaysThatItWasWelcomedBefore) {
  SessionEnv env;
  env.connect();
  EXPECT_FALSE(env.expect<message::HelloProducer>().resuming);
  env.connect();
  env.welcome();
  env.connect();
  EXPECT_TRUE(env.expect<message::HelloProducer>().resuming);
}

TEST(SessionLink, RepeatsCancels) {
  SessionEnv env;
  const JobId job = start(env, 6);
  env.session.cancel(job, TaskSequence{1});
  env.session.cancel(job, TaskSequence{4});
  EXPECT_EQ(env.expect<message::Cancel>().ranges, (std::vector{range(1, 1), range(4, 1)}));
  env.connect();
  env.welcome({progress(job, 3)});
  EXPECT_EQ(env.expect<message::Cancel>().ranges, std::vector{range(1, 1)});
  env.expect_submit(job, 3, 3);
  EXPECT_EQ(env.expect<message::Cancel>().ranges, std::vector{range(4, 1)});
}

TEST(SessionLink, CancelsWhatWaitsToBeSentAgain) {
  SessionEnv env;
  const JobId job = start(env, 4);
  env.connect();
  env.session.cancel(job);  // a worker may be running them
  EXPECT_EQ(env.delivered(job), 0U);
  env.incarnation = 2;
  env.welcome();
  env.expect<message::Job>();
  env.expect_submit(job, 0, 4);
  const auto cancel = env.expect<message::Cancel>();
  std::uint64_t cancelled = 0;
  for (const SequenceRange& part : cancel.ranges) cancelled += part.count;
  EXPECT_EQ(cancelled, 4U);
}

TEST(SessionLink, EndsAJobOfWhichTheBrokerDidNotHearTheEnd) {
  SessionEnv env;
  const JobId job = start(env, 3);
  env.session.end_job(job);
  env.expect<message::EndJob>();
  env.finish(job, 0, 3);
  env.expect_acknowledged(job, {range(0, 3)});
  EXPECT_EQ(env.session.jobs(), 0U);
  env.connect();
  env.welcome({progress(job, 3), progress(JobId{77}, 3)});
  env.expect_acknowledged(job, {range(0, 3)});
  EXPECT_EQ(env.expect<message::EndJob>().job, job);
}

TEST(SessionLink, KeepsWithinTheCreditAfterAReconnect) {
  SessionEnv env;
  env.credit_tasks = 4;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, 10);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 4);
  env.connect();
  env.welcome({progress(job, 2)});
  env.expect_submit(job, 2, 2);
  env.expect_nothing();
}

TEST(SessionLink, ASecondWelcomeOfTheSameBrokerChangesNothing) {
  SessionEnv env;
  const JobId job = start(env, 3);
  env.connect();
  env.welcome({progress(job, 3)});
  message::Welcome again;
  again.incarnation = Incarnation{7, env.incarnation};
  again.credit_tasks = env.credit_tasks;
  again.credit_bytes = env.credit_bytes;
  env.hear(again);
  env.expect_nothing();
  EXPECT_EQ(env.session.tasks_at_broker(), 3U);
}

TEST(SessionLink, FallsSilentAndRecovers) {
  SessionEnv env;
  const JobId job = start(env, 1);
  const Time heard = env.now;
  for (int i = 0; i < 4; ++i) {
    env.advance(2s);
    env.expect<message::Heartbeat>();
  }
  EXPECT_EQ(env.session.link(), Session::Link::up);
  EXPECT_EQ(env.session.next_deadline(), heard + 10s);
  env.advance(2s);
  EXPECT_EQ(env.session.link(), Session::Link::silent);
  EXPECT_EQ(env.session.silent_since(), heard);
  EXPECT_EQ(env.session.next_deadline(), kNever);
  env.hear(message::Heartbeat{1, true});  // of a connection that was given up
  env.expect_nothing();
  env.advance(1h);
  env.connect();
  EXPECT_EQ(env.session.link(), Session::Link::waiting);
  env.welcome({progress(job, 1)});
  EXPECT_EQ(env.session.link(), Session::Link::up);
  EXPECT_EQ(env.session.silent_since(), env.now);
}

TEST(SessionLink, AnUnansweredHelloFallsSilent) {
  SessionEnv env;
  env.connect();
  env.expect<message::HelloProducer>();
  env.advance(10s);
  EXPECT_EQ(env.session.link(), Session::Link::silent);
}

TEST(SessionLink, AMessageThatCannotBeReadIsAskedForOnANewConnection) {
  SessionEnv env;
  const JobId job = env.open();
  env.submit(job);
  env.connect_and_welcome();
  env.expect<message::Job>();
  env.expect_submit(job, 0, 1);
  env.hear_nonsense();
  EXPECT_EQ(env.session.link(), Session::Link::silent);
  ASSERT_TRUE(env.unreadable);
  EXPECT_FALSE(env.unreadable->is_last);
  env.finish(job, 0);
  EXPECT_EQ(env.delivered(job), 0U) << "of the connection that was given up";
  env.connect();
  env.welcome({progress(job, 1)});
  env.finish(job, 0);
  EXPECT_EQ(env.delivered(job), 1U);
  env.expect_acknowledged(job, {range(0, 1)});
}

TEST(SessionLink, TheThirdUnreadableMessageInAMinuteEndsTheSession) {
  SessionEnv env;
  for (int i = 0; i < 4; ++i) {  // one now and then is not too many
    env.connect_and_welcome();
    env.hear_nonsense();
    EXPECT_EQ(env.session.link(), Session::Link::silent);
    env.advance(61s);
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(env.session.link(), Session::Link::silent);
    env.connect_and_welcome();
    env.hear_nonsense();
  }
  EXPECT_EQ(env.session.link(), Session::Link::refused);
  EXPECT_TRUE(env.unreadable->is_last);
  env.connect();
  env.expect_nothing();
}

TEST(SessionLink, RefusalIsFinal) {
  SessionEnv env;
  const JobId job = env.open();
  env.submit(job);
  env.connect();
  env.expect<message::HelloProducer>();
  env.hear(message::Refuse{message::RefuseCode::version, "install 2.0"});
  EXPECT_EQ(env.refused, "install 2.0");
  EXPECT_EQ(env.session.link(), Session::Link::refused);
  env.connect();
  env.hear(message::Heartbeat{1, true});
  env.advance(1h);
  env.expect_nothing();
}

TEST(SessionLink, AWelcomeOfAnotherVersionIsARefusal) {
  SessionEnv env;
  env.connect();
  env.expect<message::HelloProducer>();
  message::Welcome welcome;
  welcome.protocol_version = 99;
  welcome.software_version = "9.9";
  welcome.incarnation = Incarnation{1, 1};
  env.hear(welcome);
  ASSERT_TRUE(env.refused);
  EXPECT_NE(env.refused->find("9.9"), std::string::npos);
}

TEST(SessionLink, DropsOutcomesOfTasksItNeverSent) {
  SessionEnv env;
  env.credit_tasks = 2;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, 5);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 2);
  env.finish(job, 1, 2);
  env.finish(job, 1'000'000'000'000, 1);
  env.finish(JobId{0}, 0);
  env.finish(JobId{55}, 0);
  EXPECT_EQ(env.delivered(job), 0U);
}

TEST(SessionLink, ABrokerThatClaimsMoreThanItWasGivenIsNotBelieved) {
  SessionEnv env;
  const JobId job = start(env, 2);
  env.connect();
  env.welcome({progress(job, 1'000'000), progress(job, 1'000'000)});
  env.submit(job);
  env.expect_submit(job, 2, 1);
}

TEST(SessionLink, AHostileHeartbeatIntervalIsBounded) {
  SessionEnv env;
  env.connect();
  env.expect<message::HelloProducer>();
  message::Welcome welcome;
  welcome.incarnation = Incarnation{1, 1};
  welcome.heartbeat_interval = 0ms;
  welcome.heartbeat_misses = 0;
  env.hear(welcome);
  EXPECT_GT(env.session.next_deadline(), env.now);
}

// Every message kind, in every state of the link.
template <std::size_t Index = 0>
void hear_every_kind(SessionEnv& env) {
  if constexpr (Index < std::variant_size_v<Message>) {
    env.session.receive(Message(std::in_place_index<Index>), env.now);
    env.session.check_invariants();
    env.session.take_messages();
    env.session.take_events();
    hear_every_kind<Index + 1>(env);
  }
}

TEST(SessionLink, SurvivesEveryMessageInEveryState) {
  for (int state = 0; state < 5; ++state) {
    SessionEnv env;
    const JobId job = env.open();
    env.submit(job);
    if (state >= 1) env.connect();
    if (state >= 2) env.welcome();
    if (state == 3) env.advance(1h);
    if (state == 4) env.session.close();
    env.collect();
    hear_every_kind(env);
    hear_every_kind(env);
    env.sent.clear();
  }
}

}  // namespace
}  // namespace muster::test
