// The producer's real connection through every change of its link, with a broker that the test
// drives by hand: each kind of producer has to get every result once it is over.
#include <gtest/gtest.h>

#include <future>
#include <muster/producer.hpp>
#include <numeric>
#include <optional>

#include "tests/support/hand_broker.hpp"
#include "tests/support/impostor.hpp"

namespace muster::testing {
namespace {

using namespace std::chrono_literals;

constexpr int kFew = 20;
constexpr int kMany = 300;

Bytes bytes_of(int number) { return Bytes::copy(std::to_string(number)); }

std::string text_of(const Bytes& bytes) {
  const auto span = bytes.span();
  return {reinterpret_cast<const char*>(span.data()), span.size()};
}

// --- Kinds of producers: true when each result is its argument, in order.

bool one_future(Producer& producer) {
  return text_of(producer.submit_raw({"f"}, bytes_of(7)).get()) == "7";
}

bool futures(Producer& producer) {
  std::vector<RawFuture> futures;
  for (int i = 0; i < kFew; ++i) futures.push_back(producer.submit_raw({"f"}, bytes_of(i)));
  for (int i = 0; i < kFew; ++i) {
    if (text_of(futures[static_cast<std::size_t>(i)].get()) != std::to_string(i)) return false;
  }
  return true;
}

bool ordered(Stream stream, bool endless) {
  int pushed = 0;
  for (int i = 0; i < kMany; ++i) {
    while (stream.has_room() && (endless || pushed < kMany)) stream.push(bytes_of(pushed++));
    const auto item = stream.next();
    if (!item || item->error || text_of(item->result) != std::to_string(i)) return false;
  }
  return true;
}

bool map(Producer& producer) { return ordered(producer.stream({"f"}), false); }

bool endless_map(Producer& producer) {
  JobOptions options;
  options.window = kFew;
  return ordered(producer.stream({"f"}, options), true);
}

// As joblib and Python's futures: many jobs, one place for their outcomes.
bool channel(Producer& producer) {
  Channel channel = producer.channel();
  const std::uint32_t job = channel.open({"f"});
  for (int i = 0; i < kFew; ++i) channel.push(job, bytes_of(i));
  std::map<std::uint64_t, std::string> results;
  while (results.size() < kFew) {
    for (const ChannelOutcome& item : channel.next(1s)) {
      if (item.error || !results.emplace(item.sequence, text_of(item.result)).second) return false;
    }
  }
  return results.at(kFew - 1) == std::to_string(kFew - 1);
}

struct Kind {
  const char* name;
  bool (*run)(Producer& producer);
};

class ClientLink : public ::testing::TestWithParam<Kind> {
 protected:
  // The producer is connected, and its tasks are at the broker, which keeps their outcomes.
  void start() {
    broker_.keeps_outcomes = true;
    running_ = std::async(std::launch::async, [this] {
      Options options;
      options.endpoint = broker_.endpoint();
      options.connect_timeout = kPatience;
      Producer producer(options);
      return GetParam().run(producer);
    });
    ASSERT_TRUE(broker_.serve_until_tasks(1));
    broker_.is_silent = true;
  }
  bool is_over() const { return running_.wait_for(0s) == std::future_status::ready; }
  // From now on the broker answers, and all is well.
  void finish() {
    broker_.welcomes = true;
    broker_.is_silent = broker_.keeps_outcomes = false;
    ASSERT_TRUE(broker_.serve_until([this] { return is_over(); })) << "it never comes back";
    EXPECT_TRUE(running_.get());
  }

  TemporaryFolder folder_;
  HandBroker broker_{folder_.endpoint("broker")};
  std::future<bool> running_;
};

TEST_P(ClientLink, ComesBackToABrokerThatWasSilent) {
  start();
  const PeerId before = broker_.peer();
  ASSERT_TRUE(broker_.serve_until_hello(2));
  EXPECT_NE(broker_.peer(), before) << "a new connection";
  EXPECT_TRUE(broker_.resuming);
  finish();
}

TEST_P(ClientLink, ComesBackAfterSeveralSilences) {
  start();
  ASSERT_TRUE(broker_.serve_until_hello(2));
  ASSERT_TRUE(broker_.serve_until_hello(3));
  broker_.welcomes = false;  // half-open: the connection is made, and HELLO has no answer
  ASSERT_TRUE(broker_.serve_until_hello(5));
  finish();
}

TEST_P(ClientLink, ComesBackToAnotherIncarnation) {
  start();
  broker_.restart();
  ASSERT_TRUE(broker_.serve_until_hello(2));
  broker_.restart();
  finish();
}

TEST_P(ClientLink, ComesBackToAnotherIncarnationAfterASilence) {
  start();
  ASSERT_TRUE(broker_.serve_until_hello(2));
  broker_.restart();
  ASSERT_TRUE(broker_.serve_until_hello(3));
  broker_.restart();
  finish();
}

// Whatever it was, perhaps outcomes: the broker sends it again on a new connection.
TEST_P(ClientLink, ComesBackAfterAMessageThatItCannotRead) {
  start();
  broker_.is_silent = false;
  const PeerId before = broker_.peer();
  broker_.say_nonsense();
  ASSERT_TRUE(broker_.serve_until_hello(2));
  EXPECT_NE(broker_.peer(), before) << "a new connection";
  EXPECT_TRUE(broker_.resuming);
  finish();
}

TEST_P(ClientLink, ComesBackWhenConnectionsBreakBeforeAnythingIsSaid) {
  start();
  broker_.stop();
  {
    Impostor impostor(folder_.path("broker"));
    for (int i = 0; i < 3; ++i) impostor.meet("");
  }
  broker_.restart();
  finish();
}

// libzmq does not try again by itself after somebody who does not speak its protocol.
TEST_P(ClientLink, ComesBackAfterSomebodyElseListenedThere) {
  start();
  broker_.stop();
  {
    Impostor impostor(folder_.path("broker"));
    impostor.meet("HTTP/1.1 400 Bad Request: this is another kind of server altogether\r\n\r\n");
  }
  broker_.restart();
  finish();
}

INSTANTIATE_TEST_SUITE_P(Kinds, ClientLink,
                         ::testing::Values(Kind{"one_future", one_future}, Kind{"futures", futures},
                                           Kind{"map", map}, Kind{"endless_map", endless_map},
                                           Kind{"channel", channel}),
                         [](const auto& kind) { return std::string(kind.param.name); });

// --- What a program is told

class ClientLinkText : public ::testing::Test {
 protected:
  // A producer waits for its task, which is at the broker; from now on that is silent.
  void start(std::optional<std::chrono::milliseconds> broker_timeout = {}) {
    broker_.keeps_outcomes = true;
    error_ = std::async(std::launch::async, [this, broker_timeout] {
      Options options;
      options.endpoint = broker_.endpoint();
      options.broker_timeout = broker_timeout;
      options.connect_timeout = kPatience;
      Producer producer(options);
      try {
        producer.submit_raw({"f"}, bytes_of(1)).get();
        return Error(ErrorCode::invalid, "", "no error");
      } catch (const Error& error) {
        return error;
      }
    });
    ASSERT_TRUE(broker_.serve_until_tasks(1));
    broker_.is_silent = true;
  }

  TemporaryFolder folder_;
  HandBroker broker_{folder_.endpoint("broker")};
  std::future<Error> error_;
};

TEST_F(ClientLinkText, ABrokerThatIsSilentForTooLongEndsTheWaitsOfThoseWhoWantThat) {
  start(500ms);
  broker_.welcomes = false;
  ASSERT_TRUE(
      broker_.serve_until([&] { return error_.wait_for(0s) == std::future_status::ready; }));
  EXPECT_NE(std::string(error_.get().what()).find("has not answered for"), std::string::npos);
}

TEST_F(ClientLinkText, MessagesThatNobodyCanReadEndTheWaitInTheEnd) {
  start();
  broker_.is_silent = false;
  for (std::uint64_t i = 1; i <= 3; ++i) {
    ASSERT_TRUE(broker_.serve_until_hello(i));
    broker_.say_nonsense();
  }
  const Error error = error_.get();
  EXPECT_EQ(error.code(), ErrorCode::refused);
  EXPECT_NE(std::string(error.what()).find("the same version of Muster"), std::string::npos);
}

TEST_F(ClientLinkText, ARefusalEndsTheWait) {
  start();
  ASSERT_TRUE(broker_.serve_until_hello(2));
  broker_.say(message::Refuse{message::RefuseCode::identity, "not you"});
  EXPECT_EQ(error_.get().code(), ErrorCode::refused);
}

}  // namespace
}  // namespace muster::testing
