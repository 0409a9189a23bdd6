// What a session says about blobs: in time, again after a broken link, and until nobody needs them.
#include "common/protocol/blob_names.hpp"
#include "tests/producer/session/session_env.hpp"

namespace muster::test {
namespace {

BlobName name(std::uint64_t number, std::uint64_t size_bytes = 100) {
  return {{number, 77}, size_bytes};
}

BlobSource incoming(const BlobName& blob) {
  return {blob, BlobPlace::memory, to_hex(blob.id) + ".owner"};
}

BlobSource kept(const BlobName& blob) { return {blob, BlobPlace::kept}; }

class BlobEnv : public SessionEnv {
 public:
  // A task that names these blobs, which are put first.
  void submit_naming(JobId job, const std::vector<BlobName>& names) {
    session.submit(job, with_blobs(names, {Bytes::copy("body"), 0}));
  }
  void answer(const BlobName& blob, BlobState state) {
    hear(message::BlobAnswers{{{blob.id, state}}});
  }
  std::vector<BlobSource> expect_put() { return expect<message::BlobPut>().blobs; }
  void expect_released(const std::vector<BlobId>& ids) {
    EXPECT_EQ(expect<message::BlobRelease>().blobs, ids);
  }
  // The question whose answer confirms what was released.
  std::uint64_t expect_question() {
    const auto question = expect<message::Heartbeat>();
    EXPECT_TRUE(question.reply_wanted);
    return question.token;
  }
  // Task `sequence` ends in a result that is blob `result`.
  void finish_with(JobId job, std::uint64_t sequence, const BlobName& result) {
    OutcomeRun run{TaskSequence{sequence}, Attempt{0}, {}};
    run.outcomes.push_back({OutcomeStatus::result, with_blobs({&result, 1}, {})});
    hear(message::Outcomes{job, {std::move(run)}});
  }
  void reconnect_to_a_new_broker() {
    ++incarnation;
    connect();
    welcome();
  }
};

TEST(SessionBlobs, ArePutBeforeWhatNamesThem) {
  BlobEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.session.put_blob(incoming(name(1)));
  env.session.put_blob(incoming(name(2)));
  env.submit_naming(job, {name(1), name(2)});
  EXPECT_EQ(env.expect_put(), (std::vector{incoming(name(1)), incoming(name(2))}));
  env.expect<message::Job>();
  const auto submit = env.expect<message::Submit>();
  ASSERT_EQ(submit.payloads.size(), 1U);
  EXPECT_EQ(blob_at(submit.payloads[0], 1), name(2));
  env.answer(name(1), BlobState::here);
  env.answer(name(2), BlobState::here);
  env.expect_nothing();
}

TEST(SessionBlobs, BeforeTheFirstWelcomeTheyWaitForIt) {
  BlobEnv env;
  env.session.put_blob(incoming(name(1)));
  env.connect();
  env.welcome();
  EXPECT_EQ(env.expect_put(), std::vector{incoming(name(1))});
}

TEST(SessionBlobs, AreReleasedAfterTheAcknowledgementOfTheOutcome) {
  BlobEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.session.put_blob(incoming(name(1)));
  env.submit_naming(job, {name(1)});
  env.expect_put();
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.finish(job, 0);
  env.expect_acknowledged(job, {range(0, 1)});
  EXPECT_TRUE(env.session.release_blob(name(1).id));
  env.expect_released({name(1).id});
  env.expect_question();
}

TEST(SessionBlobs, AnAcknowledgementThatWaitsGoesBeforeARelease) {
  BlobEnv env;
  SessionEnv waiting(20ms);
  waiting.connect_and_welcome();
  const JobId job = waiting.open();
  waiting.submit(job);
  waiting.expect<message::Job>();
  waiting.expect<message::Submit>();
  OutcomeRun run{TaskSequence{0}, Attempt{0}, {}};
  const BlobName result = name(5);
  run.outcomes.push_back({OutcomeStatus::result, with_blobs({&result, 1}, {})});
  waiting.hear(message::Outcomes{job, {run}});
  waiting.expect_nothing();
  waiting.session.release_blob(result.id);
  waiting.expect<message::AcknowledgeOutcomes>();
  waiting.expect<message::BlobRelease>();
  waiting.expect<message::Heartbeat>();
}

TEST(SessionBlobs, OneThatNoBrokerHeardOfIsNotReleased) {
  BlobEnv env;
  env.connect_and_welcome();
  env.session.put_blob(incoming(name(1)));
  EXPECT_FALSE(env.session.release_blob(name(1).id));
  env.expect_nothing();
}

TEST(SessionBlobs, PutAgainAfterARelease) {
  BlobEnv env;
  env.connect_and_welcome();
  env.session.put_blob(incoming(name(1)));
  env.expect_put();
  env.session.release_blob(name(1).id);
  env.session.put_blob(incoming(name(1)));
  env.expect_released({name(1).id});
  EXPECT_EQ(env.expect_put(), std::vector{incoming(name(1))});
  env.expect_question();
}

TEST(SessionBlobs, AfterAReconnectTheAnsweredOnesAreAskedForAndTheOthersSaidAgain) {
  BlobEnv env;
  env.connect_and_welcome();
  env.session.put_blob(incoming(name(1)));
  env.expect_put();
  env.answer(name(1), BlobState::here);
  env.session.put_blob(incoming(name(2)));
  env.expect_put();
  env.connect();
  env.welcome();
  auto again = env.expect_put();
  std::sort(again.begin(), again.end(),
            [](const auto& left, const auto& right) { return left.name.id < right.name.id; });
  EXPECT_EQ(again, (std::vector{kept(name(1)), incoming(name(2))}));
}

TEST(SessionBlobs, NoTaskIsSentWhileANewBrokerMayMissItsBlobs) {
  BlobEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.session.put_blob(incoming(name(1)));
  env.submit_naming(job, {name(1)});
  env.expect_put();
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.answer(name(1), BlobState::here);
  env.reconnect_to_a_new_broker();
  EXPECT_EQ(env.expect_put(), std::vector{kept(name(1))});
  env.expect_nothing();
  env.answer(name(1), BlobState::here);
  env.expect<message::Job>();
  env.expect_submit(job, 0, 1);
}

TEST(SessionBlobs, OneThatIsMissingIsWrittenAgainBeforeTheTask) {
  BlobEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.session.put_blob(incoming(name(1)));
  env.submit_naming(job, {name(1)});
  env.expect_put();
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.answer(name(1), BlobState::here);
  env.reconnect_to_a_new_broker();
  env.expect_put();
  env.session.receive(through_codec(message::BlobAnswers{{{name(1).id, BlobState::missing}}}),
                      env.now);
  const Session::Events events = env.session.take_events();
  ASSERT_EQ(events.blob_answers.size(), 1U);
  EXPECT_EQ(events.blob_answers[0].state, BlobState::missing);
  env.session.put_blob(incoming(name(1)));  // as the client does
  EXPECT_EQ(env.expect_put(), std::vector{incoming(name(1))});
  env.expect<message::Job>();
  env.expect_submit(job, 0, 1);
}

TEST(SessionBlobs, OfAnOutcomeAreKeptUntilTheirRelease) {
  BlobEnv env;
  env.connect_and_welcome();
  const JobId job = env.open();
  env.submit(job);
  env.expect<message::Job>();
  env.expect<message::Submit>();
  env.finish_with(job, 0, name(9));
  env.expect_acknowledged(job, {range(0, 1)});
  env.reconnect_to_a_new_broker();
  EXPECT_EQ(env.expect_put(), std::vector{kept(name(9))});
  env.answer(name(9), BlobState::here);
  EXPECT_TRUE(env.session.release_blob(name(9).id));
  env.expect_released({name(9).id});
  env.expect_question();
}

TEST(SessionBlobs, ReleasesThatMayBeLostWithTheLinkAreRepeated) {
  BlobEnv env;
  env.connect_and_welcome();
  env.session.put_blob(incoming(name(1)));
  env.session.put_blob(incoming(name(2)));
  env.expect_put();
  env.session.release_blob(name(1).id);
  env.expect_released({name(1).id});
  const std::uint64_t token = env.expect_question();
  env.session.release_blob(name(2).id);
  env.expect_released({name(2).id});  // one question at a time
  env.hear(message::Heartbeat{token, false});
  env.connect();
  env.welcome();
  env.expect_released({name(2).id});
  env.hear(message::Heartbeat{env.expect_question(), false});
  env.connect();
  env.welcome();
  env.expect_nothing();
}

TEST(SessionBlobs, ANewBrokerKnowsOfNothingToRelease) {
  BlobEnv env;
  env.connect_and_welcome();
  env.session.put_blob(incoming(name(1)));
  env.expect_put();
  env.session.release_blob(name(1).id);
  env.expect_released({name(1).id});
  env.expect_question();
  env.reconnect_to_a_new_broker();
  env.expect_nothing();
}

TEST(SessionBlobs, ManyAreSaidInSeveralMessages) {
  BlobEnv env;
  env.connect_and_welcome();
  const std::size_t count = limits::kMaxBlobEntries + 1;
  for (std::size_t i = 0; i < count; ++i) env.session.put_blob(incoming(name(i)));
  EXPECT_EQ(env.expect_put().size(), limits::kMaxBlobEntries);
  EXPECT_EQ(env.expect_put().size(), 1U);
}

TEST(SessionBlobs, AnswersAboutStrangersAreIgnored) {
  BlobEnv env;
  env.connect_and_welcome();
  env.session.receive(through_codec(message::BlobAnswers{{{name(3).id, BlobState::missing}}}),
                      env.now);
  EXPECT_TRUE(env.session.take_events().blob_answers.empty());
}

TEST(SessionBlobs, TheWelcomeSaysWhereTheyGo) {
  BlobEnv env;
  env.connect();
  env.expect<message::HelloProducer>();
  message::Welcome welcome;
  welcome.incarnation = Incarnation{7, 7};
  welcome.blob_folders = {"/memory", "/disk"};
  welcome.blob_token = "token";
  welcome.credit_blob_bytes = 5;
  welcome.credit_memory_bytes = 3;
  env.session.receive(through_codec(std::move(welcome)), env.now);
  const auto terms = env.session.take_events().blob_terms;
  ASSERT_TRUE(terms);
  EXPECT_EQ(terms->folders, (std::vector<std::string>{"/memory", "/disk"}));
  EXPECT_EQ(terms->token, "token");
  EXPECT_EQ(terms->credit_bytes, 5U);
  EXPECT_EQ(terms->credit_memory_bytes, 3U);
}

}  // namespace
}  // namespace muster::test
