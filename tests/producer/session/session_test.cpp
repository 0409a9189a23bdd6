// A session that nothing disturbs: streaming, batches, credit, cancelling, ending.
#include "tests/producer/session/session_env.hpp"

namespace muster::test {
namespace {

TEST(Session, SaysNothingBeforeItIsConnected) {
  SessionEnv env;
  const JobId job = env.open();
  env.submit(job);
  env.session.cancel(env.open());
  env.advance(1h);
  env.expect_nothing();
  EXPECT_EQ(env.session.link(), Session::Link::waiting);
  EXPECT_EQ(env.session.tasks_in_hand(), 1U);
}

TEST(Session, StreamsTasksAndAcknowledgesOutcomes) {
  SessionEnv env;
  env.connect_and_welcome();
  const JobId job = env.open(2);
  env.submit_many(job, 1);
  EXPECT_EQ(env.expect<message::Job>().spec.retries, 2U);
  env.expect_submit(job, 0, 1);
  env.submit(job);
  env.submit(job);
  env.expect_submit(job, 1, 2);
  env.finish(job, 0, 3);
  env.expect_acknowledged(job, {range(0, 3)});
  EXPECT_EQ(env.delivered(job), 3U);
  EXPECT_EQ(env.outcomes[job][2].body.bytes.text(), "2");
  EXPECT_EQ(env.session.tasks_in_hand(), 0U);
  EXPECT_EQ(env.session.bytes_in_hand(), 0U);
  env.session.end_job(job);
  env.expect<message::EndJob>();
  EXPECT_EQ(env.session.jobs(), 0U);
}

TEST(Session, AcknowledgementsWaitForTasksThatGoTheSameWay) {
  SessionEnv env(limits::kAcknowledgementWindow);
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit(job);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 1);
  env.finish(job, 0);
  env.expect_nothing();
  EXPECT_EQ(env.delivered(job), 1U) << "the outcome itself never waits";
  env.submit(job);
  env.expect_acknowledged(job, {range(0, 1)});
  env.expect_submit(job, 1, 1);
  env.finish(job, 1);
  env.expect_nothing();
  EXPECT_EQ(env.session.next_deadline(), env.now + limits::kAcknowledgementWindow);
  env.advance(limits::kAcknowledgementWindow);
  env.expect_acknowledged(job, {range(1, 1)});
}

TEST(Session, ManyAcknowledgementsDoNotWait) {
  SessionEnv env(limits::kAcknowledgementWindow);
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, 64);
  env.expect<message::Job>();
  for (std::uint64_t done = 0; done < 64;) {
    const auto submit = env.expect<message::Submit>();
    done += submit.payloads.size();
  }
  env.finish(job, 0, 63);
  env.expect_nothing();
  env.finish(job, 63);
  env.expect_acknowledged(job, {range(0, 64)});
}

TEST(Session, CutsBatchesByCountAndBytes) {
  SessionEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  for (int i = 0; i < 2500; ++i) env.submit(job);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 1024);
  env.expect_submit(job, 1024, 1024);
  env.expect_submit(job, 2048, 452);
  const JobId large = env.open();
  for (int i = 0; i < 3; ++i) env.submit(large, 600 << 10);
  env.expect<message::Job>();
  for (std::uint64_t i = 0; i < 3; ++i) env.expect_submit(large, i, 1);
}

TEST(Session, AnEmptyJobIsNeverMentioned) {
  SessionEnv env;
  env.connect_and_welcome();
  env.session.end_job(env.open());
  env.expect_nothing();
  EXPECT_EQ(env.session.jobs(), 0U);
}

TEST(Session, KeepsWithinTheCreditInTasks) {
  SessionEnv env;
  env.credit_tasks = 10;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, 25);
  env.session.end_job(job);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 10);
  env.expect_nothing();
  env.finish(job, 3, 4);  // out of order
  env.expect_acknowledged(job, {range(3, 4)});
  env.expect_submit(job, 10, 4);
  env.credit_tasks = 12;
  env.hear(message::Credit{12, 1 << 30});
  env.expect_submit(job, 14, 2);
  env.finish(job, 0, 3);
  env.expect_acknowledged(job, {range(0, 3)});
  env.expect_submit(job, 16, 3);
  env.finish(job, 7, 12);
  env.expect_acknowledged(job, {range(7, 12)});
  env.expect_submit(job, 19, 6);
  env.expect<message::EndJob>();
}

TEST(Session, KeepsWithinTheCreditInBytesButAlwaysSendsOne) {
  SessionEnv env;
  env.credit_bytes = 1000;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit(job, 400);
  env.submit(job, 400);
  env.submit(job, 5000);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 2);
  env.finish(job, 0);
  env.expect_acknowledged(job, {range(0, 1)});
  env.expect_nothing();
  env.finish(job, 1);
  env.expect_acknowledged(job, {range(1, 1)});
  env.expect_submit(job, 2, 1);
}

TEST(Session, JobsTakeTurns) {
  SessionEnv env;
  env.credit_tasks = 2048;
  env.connect_and_welcome();
  const JobId first = env.open();
  const JobId second = env.open();
  for (int i = 0; i < 3000; ++i) env.submit(first);
  for (int i = 0; i < 3000; ++i) env.submit(second);
  env.expect<message::Job>();
  env.expect_submit(first, 0, 1024);
  env.expect<message::Job>();
  env.expect_submit(second, 0, 1024);
  env.finish(second, 0, 5);
  env.expect_acknowledged(second, {range(0, 5)});
  env.expect_submit(first, 1024, 5);
}

TEST(Session, CancelEndsUnsentTasksHereAndAsksForTheOthers) {
  SessionEnv env;
  env.credit_tasks = 4;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, 10);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 4);
  env.session.cancel(job);
  EXPECT_EQ(env.expect<message::Cancel>().ranges, std::vector{range(0, 4)});
  EXPECT_EQ(env.delivered(job), 6U);
  EXPECT_EQ(env.outcomes[job][9].status, OutcomeStatus::cancelled);
  EXPECT_EQ(decode_failure(env.outcomes[job][9].body.bytes).kind, "cancelled");
  env.finish(job, 0, 4);
  env.expect_acknowledged(job, {range(0, 4)});
  EXPECT_EQ(env.delivered(job), 10U);
}

TEST(Session, CancelsSingleTasks) {
  SessionEnv env;
  env.credit_tasks = 3;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, 8);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 3);
  env.session.cancel(job, TaskSequence{1});
  env.session.cancel(job, TaskSequence{1});
  env.session.cancel(job, TaskSequence{5});
  env.session.cancel(job, TaskSequence{100});
  EXPECT_EQ(env.expect<message::Cancel>().ranges, std::vector{range(1, 1)});
  env.finish(job, 0, 3);
  env.expect_acknowledged(job, {range(0, 3)});
  env.expect_submit(job, 3, 2);  // a SUBMIT is contiguous: task 5 has its outcome
  env.expect_submit(job, 6, 1);
  env.finish(job, 3, 2);
  env.expect_acknowledged(job, {range(3, 2)});
  env.expect_submit(job, 7, 1);
}

TEST(Session, DropsDuplicatesButAcknowledgesThemAgain) {
  SessionEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit_many(job, 6);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 6);
  env.finish(job, 1, 2);
  env.expect_acknowledged(job, {range(1, 2)});
  env.finish(job, 0, 5);
  env.expect_acknowledged(job, {range(0, 5)});
  EXPECT_EQ(env.delivered(job), 5U);
  env.session.end_job(job);
  env.expect<message::EndJob>();
  env.finish(job, 5);
  env.expect_acknowledged(job, {range(5, 1)});
  EXPECT_EQ(env.session.jobs(), 0U);
  env.finish(job, 5);  // the job is forgotten, its outcome is not accepted twice
  env.expect_acknowledged(job, {range(5, 1)});
}

TEST(Session, PassesNoticesAndStatusOn) {
  SessionEnv env;
  env.session.request_status();
  env.connect_and_welcome();
  env.expect<message::StatusRequest>();
  message::Status status;
  status.total_slots = 9;
  env.hear(status);
  ASSERT_TRUE(env.status);
  EXPECT_EQ(env.status->total_slots, 9U);
  const JobId job = env.open();
  env.hear(message::Notice{job, "no worker"});
  EXPECT_EQ(env.notices, std::vector<std::string>{"no worker"});
  env.notices.clear();
  env.hear(message::Notice{JobId{99}, "nobody's"});
}

TEST(Session, PassesOnOutputAndThePoolsSize) {
  SessionEnv env;
  env.connect_and_welcome();
  env.hear(message::Pool{4, 2});
  ASSERT_TRUE(env.pool);
  EXPECT_EQ(*env.pool, (message::Pool{4, 2}));
  const JobId job = env.open();
  const message::OutputLine line{TaskSequence{3}, OutputKind::log, 30, "root", "hot"};
  env.hear(message::Output{job, "node7", {line}, 2});
  env.hear(message::Output{JobId{99}, "node7", {line}, 0});
  ASSERT_EQ(env.outputs.size(), 1U) << "nobody opened job 99";
  EXPECT_EQ(env.outputs[0].node, "node7");
  EXPECT_EQ(env.outputs[0].lines[0].text, "hot");
  EXPECT_EQ(env.outputs[0].dropped, 2U);
  env.session.end_job(job);
  env.collect();
  env.hear(message::Output{job, "node7", {line}, 0});
  EXPECT_EQ(env.outputs.size(), 2U) << "last words of a job that has ended";
}

TEST(Session, KeepsTheLinkAliveAndAnswersHeartbeats) {
  SessionEnv env;
  env.connect_and_welcome();
  env.advance(1s);
  env.expect_nothing();
  env.advance(1s);
  EXPECT_FALSE(env.expect<message::Heartbeat>().reply_wanted);
  env.hear(message::Heartbeat{42, true});
  EXPECT_EQ(env.expect<message::Heartbeat>().token, 42U);
  env.hear(message::Heartbeat{43, false});
  EXPECT_EQ(env.session.next_deadline(), env.now + 2s);
}

TEST(Session, HoldsJobsBackThatABrokerWouldRefuse) {
  constexpr std::size_t kMost = 20;
  SessionEnv env(Duration(0), kMost);
  env.connect_and_welcome();
  std::vector<JobId> jobs;
  for (std::size_t i = 0; i < kMost; ++i) {
    jobs.push_back(env.open());
    env.submit(jobs.back());
  }
  env.collect();
  EXPECT_EQ(env.sent.size(), 2 * kMost) << "JOB and SUBMIT of each";
  env.sent.clear();
  for (int i = 0; i < 3; ++i) {
    jobs.push_back(env.open());
    env.submit(jobs.back());
  }
  env.expect_nothing();
  EXPECT_EQ(env.notices.size(), 3U);
  EXPECT_NE(env.notices.front().find("20 jobs"), std::string::npos) << env.notices.front();
  env.notices.clear();

  const JobId cancelled = jobs[kMost];
  env.session.cancel(cancelled);
  env.session.end_job(cancelled);
  env.collect();
  EXPECT_EQ(env.delivered(cancelled), 1U) << "no broker has to know of it";

  env.session.end_job(jobs[0]);
  env.expect<message::EndJob>();
  env.expect_nothing();
  for (std::size_t i = 0; i < 2; ++i) {
    if (i > 0) {
      env.session.end_job(jobs[i]);
      env.expect<message::EndJob>();
    }
    env.finish(jobs[i], 0);  // the broker forgets it with this acknowledgement
    env.expect_acknowledged(jobs[i], {range(0, 1)});
    const JobId let_in = jobs[kMost + 1 + i];
    EXPECT_EQ(env.expect<message::Job>().job, let_in);
    env.expect_submit(let_in, 0, 1);
    env.expect_nothing();
    EXPECT_EQ(env.notices, std::vector<std::string>{""});
    env.notices.clear();
  }
}

TEST(Session, HoldsBackAgainWhatANewBrokerHasNoPlaceFor) {
  constexpr std::size_t kMost = 20;
  SessionEnv env(Duration(0), kMost);
  std::vector<JobId> jobs;
  for (std::size_t i = 0; i < kMost + 1; ++i) {
    jobs.push_back(env.open());
    env.submit(jobs.back());
  }
  for (int incarnation = 1; incarnation < 3; ++incarnation) {
    env.incarnation = static_cast<std::uint64_t>(incarnation);
    env.connect_and_welcome();
    EXPECT_EQ(env.sent.size(), 2 * kMost);
    env.sent.clear();
    EXPECT_EQ(env.notices.empty(), false);
    env.notices.clear();
  }
}

TEST(Session, SaysGoodbyeOnce) {
  SessionEnv env;
  env.connect_and_welcome();
  env.session.close();
  env.expect<message::Goodbye>();
  env.hear(message::Heartbeat{1, true});
  env.advance(1h);
}

}  // namespace
}  // namespace muster::test
