// The real broker against peers that break the protocol: each is told once and then ignored, and
// whoever behaves is served all the while.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <zmq.hpp>

#include "common/net/transport.hpp"
#include "tests/support/child.hpp"
#include "tests/support/messages.hpp"
#include "tests/support/zmtp.hpp"

namespace muster {
namespace {

using message::RefuseCode;
using testing::Child;
using testing::kPatience;
using testing::kWorker;
using testing::TemporaryFolder;
using testing::wait_until;

constexpr std::uint64_t kCreditTasks = 50;

// One connection that says what it likes.
class Peer {
 public:
  Peer(TransportContext& context, const std::string& endpoint) : dealer_(context, endpoint) {}

  void say(const Message& message) { say_frames(encode(message, Packing::never)); }
  void say_frames(Frames frames) { EXPECT_EQ(dealer_.send(std::move(frames)), SendResult::sent); }
  // The next message but heartbeats and the pool's size; nothing after `patience`.
  std::optional<Message> hear(std::chrono::nanoseconds patience = kPatience) {
    std::optional<Message> heard;
    wait_until(
        [&] {
          while (auto frames = dealer_.receive()) {
            auto decoded = decode(*frames);
            if (std::holds_alternative<DecodeError>(decoded)) {
              ADD_FAILURE() << "the broker sent garbage";
              continue;
            }
            heard = std::get<Message>(std::move(decoded));
            const auto* beat = std::get_if<message::Heartbeat>(&*heard);
            if (beat != nullptr && beat->reply_wanted) say(message::Heartbeat{beat->token, false});
            if (!std::holds_alternative<message::Heartbeat>(*heard) &&
                !std::holds_alternative<message::Pool>(*heard)) {
              return true;
            }
            heard.reset();
          }
          return false;
        },
        patience);
    return heard;
  }
  template <typename Kind>
  std::optional<Kind> expect() {
    const auto heard = hear();
    EXPECT_TRUE(heard && std::holds_alternative<Kind>(*heard))
        << (heard ? name_of(*heard) : "nothing");
    return heard && std::holds_alternative<Kind>(*heard) ? std::optional(std::get<Kind>(*heard))
                                                         : std::nullopt;
  }
  std::string expect_refused(RefuseCode code) {
    const auto refuse = expect<message::Refuse>();
    if (!refuse) return "";
    EXPECT_EQ(refuse->code, code) << refuse->text;
    return refuse->text;
  }

 private:
  Dealer dealer_;
};

class HostilePeer : public ::testing::Test {
 protected:
  HostilePeer()
      : broker_({MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint_, "--credit-tasks",
                 std::to_string(kCreditTasks)}) {
    EXPECT_TRUE(broker_.wait_for_output("listening on")) << broker_.error_output();
  }
  // The broker is as it was: it serves a well-behaved session, and ends when it is told to.
  ~HostilePeer() override {
    const auto status = ask_status();
    EXPECT_TRUE(status) << broker_.error_output();
    broker_.signal(SIGTERM);
    EXPECT_EQ(broker_.wait(), 0) << broker_.error_output();
  }

  std::unique_ptr<Peer> connect() { return std::make_unique<Peer>(context_, endpoint_); }
  std::unique_ptr<Peer> producer() {
    auto peer = connect();
    peer->say(message::HelloProducer{
        limits::kProtocolVersion, "0.1.0", {5, ++last_session_}, "test", false});
    peer->expect<message::Welcome>();
    return peer;
  }
  std::optional<message::Status> ask_status() {
    const auto peer = producer();
    peer->say(message::StatusRequest{});
    auto status = peer->expect<message::Status>();
    peer->say(message::Goodbye{});
    return status;
  }
  std::uint64_t counter(std::string_view name) {
    const auto status = ask_status();
    if (!status) return 0;
    for (const auto& [key, count] : status->counters) {
      if (key == name) return count;
    }
    return 0;
  }
  // After REFUSE nothing that the peer says is answered; it is only counted.
  void expect_ignored(Peer& peer) {
    const std::uint64_t before = counter("messages_ignored");
    peer.say(message::StatusRequest{});
    peer.say(message::Heartbeat{1, true});
    EXPECT_TRUE(wait_until([&] { return counter("messages_ignored") == before + 2; }));
    EXPECT_FALSE(peer.hear(std::chrono::nanoseconds(0)));
  }

  TemporaryFolder folder_;
  const std::string endpoint_ = folder_.endpoint("b");
  Child broker_;
  TransportContext context_;
  std::uint64_t last_session_ = 0;
};

TEST_F(HostilePeer, GarbageIsRefusedOnceAndThenIgnored) {
  const std::string deep(1000, '\x91');
  const std::vector<Frames> garbage = {
      {Bytes{}},
      {Bytes::borrow("GET / HTTP/1.1\r\n\r\n")},
      {Bytes::copy(std::string("\0\x91\xc6\xff\xff\xff\xff", 7))},
      {Bytes::copy(std::string(1, '\0') + deep)},
      {encode(message::Goodbye{}, Packing::never)[0], Bytes::borrow("more")},
      Frames(limits::kMaxFrames + 500, Bytes::borrow("x")),
  };
  for (const Frames& frames : garbage) {
    const auto peer = connect();
    peer->say_frames(frames);
    EXPECT_NE(peer->expect_refused(RefuseCode::malformed), "");
  }
  const auto peer = producer();
  peer->say_frames(garbage[1]);
  peer->expect_refused(RefuseCode::malformed);
  peer->say_frames(garbage[1]);
  peer->say(message::HelloProducer{limits::kProtocolVersion, "0.1.0", {5, 999}, "again", false});
  EXPECT_TRUE(wait_until([&] { return counter("messages_ignored") == 2; }));
  EXPECT_EQ(counter("messages_malformed"), garbage.size() + 1) << "the second is not looked into";
  EXPECT_FALSE(peer->hear(std::chrono::nanoseconds(0)));
}

TEST_F(HostilePeer, AnOversizedFrameZeroIsRefused) {
  const auto peer = producer();
  peer->say_frames({Bytes::copy(std::string(limits::kMaxFrameZeroBytes + 1, '\0'))});
  peer->expect_refused(RefuseCode::over_limit);
  expect_ignored(*peer);
}

TEST_F(HostilePeer, AnotherProtocolVersionIsToldWhatToInstallWhere) {
  const auto peer = connect();
  peer->say(message::HelloProducer{99, "9.9.9", {5, 500}, "future", false});
  const std::string text = peer->expect_refused(RefuseCode::version);
  for (const std::string& part :
       std::vector<std::string>{"version 99", "9.9.9", "install muster " MUSTER_VERSION,
                                "version " + std::to_string(limits::kProtocolVersion)}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
  expect_ignored(*peer);
}

TEST_F(HostilePeer, MessagesBeforeHelloAreAnsweredOnce) {
  const auto peer = connect();
  for (int i = 0; i < 10; ++i) peer->say(message::StatusRequest{});
  const auto unknown = peer->expect<message::Unknown>();
  ASSERT_TRUE(unknown);
  EXPECT_TRUE(wait_until([&] { return counter("messages_before_hello") == 10; }));
  EXPECT_FALSE(peer->hear(std::chrono::nanoseconds(0)));
  peer->say(message::HelloProducer{limits::kProtocolVersion, "0.1.0", {5, 600}, "late", false});
  const auto welcome = peer->expect<message::Welcome>();
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->incarnation, unknown->incarnation);
}

TEST_F(HostilePeer, SubmitWithoutJobIsOutOfOrder) {
  const auto peer = producer();
  peer->say(message::Submit{JobId{1}, TaskSequence{0}, {{}}});
  EXPECT_NE(peer->expect_refused(RefuseCode::out_of_order).find("job 1"), std::string::npos);
  expect_ignored(*peer);
}

TEST_F(HostilePeer, CreditIsALimit) {
  const auto within = producer();
  within->say(message::Job{JobId{1}, {}});
  within->say(message::Submit{JobId{1}, TaskSequence{0}, std::vector<Payload>(kCreditTasks)});
  within->say(message::StatusRequest{});
  within->expect<message::Status>();
  within->say(message::Submit{JobId{1}, TaskSequence{kCreditTasks}, {{}}});
  std::optional<Message> heard = within->hear();
  while (heard && std::holds_alternative<message::Notice>(*heard)) heard = within->hear();
  ASSERT_TRUE(heard && std::holds_alternative<message::Refuse>(*heard));
  EXPECT_EQ(std::get<message::Refuse>(*heard).code, RefuseCode::over_limit);
  expect_ignored(*within);
}

TEST_F(HostilePeer, NobodySpeaksForTheOtherSide) {
  const auto wrong = producer();
  wrong->say(message::WorkerState{1, true});
  wrong->expect_refused(RefuseCode::out_of_order);
  const auto both = producer();
  message::HelloWorker hello;
  hello.worker = kWorker;
  hello.slots = 1;
  both->say(hello);
  both->expect_refused(RefuseCode::identity);
  const auto worker = connect();
  worker->say(hello);
  worker->expect<message::Welcome>();
  worker->say(message::Submit{JobId{1}, TaskSequence{0}, {{}}});
  worker->expect_refused(RefuseCode::out_of_order);
  EXPECT_TRUE(wait_until([&] { return ask_status()->workers.empty(); })) << "its state is freed";
}

TEST_F(HostilePeer, AThousandConnectionsComeAndGo) {
  for (int i = 0; i < 1000; ++i) {
    const auto peer = connect();
    if (i % 4 == 0) continue;  // silent
    peer->say(i % 4 == 1 ? Message(message::StatusRequest{}) : Message(message::Goodbye{}));
    if (i % 50 == 1) peer->expect<message::Unknown>();
  }
  std::vector<std::unique_ptr<Peer>> crowd;
  for (int i = 0; i < 100; ++i) crowd.push_back(producer());
  const auto status = ask_status();
  ASSERT_TRUE(status);
  EXPECT_GE(status->sessions, 100U);
}

TEST_F(HostilePeer, ManyOffencesTakeFewLinesOfTheLog) {
  constexpr std::uint64_t kOffences = 200;
  std::vector<std::unique_ptr<Peer>> crowd;
  for (std::uint64_t i = 0; i < kOffences; ++i) {
    crowd.push_back(connect());
    crowd.back()->say_frames({Bytes::borrow("garbage")});
  }
  EXPECT_TRUE(wait_until([&] { return counter("messages_malformed") == kOffences; }));
  const std::string log = broker_.error_output();
  std::size_t lines = 0;
  for (std::size_t at = log.find(" refused ("); at != std::string::npos;
       at = log.find(" refused (", at + 1)) {
    ++lines;
  }
  EXPECT_GE(lines, 8U);
  EXPECT_LE(lines, 8U + 4U) << "one for each doubling";
}

TEST_F(HostilePeer, StatusIsBuiltForPeersThatReadIt) {
  const auto reader = producer();
  for (int i = 0; i < 20; ++i) reader->say(message::StatusRequest{});
  for (int i = 0; i < 20; ++i) reader->expect<message::Status>();
  // The next one reads nothing.
  testing::RawConnection unread(folder_.path("b"));
  const auto said = [](const Message& message) {
    return testing::zmtp_last_part(encode(message, Packing::never)[0].text());
  };
  ASSERT_TRUE(unread.shake_hands());
  ASSERT_TRUE(unread.say(
      said(message::HelloProducer{limits::kProtocolVersion, "0.1.0", {5, 800}, "unread", false})));
  std::string requests;
  for (int i = 0; i < 2000; ++i) requests += said(message::StatusRequest{});
  ASSERT_TRUE(unread.say(requests + said(message::Job{JobId{1}, {}})));
  EXPECT_TRUE(wait_until([&] { return counter("jobs") == 1; })) << "it came behind them all";
  EXPECT_LT(counter("bytes_unread"), 1'000'000U);
}

TEST_F(HostilePeer, AMessageWithoutEndEndsItsConnection) {
  testing::RawConnection endless(folder_.path("b"));
  ASSERT_TRUE(endless.shake_hands());
  const std::string part = testing::zmtp_part(std::string(1 << 20, 'x'));
  int parts = 0;
  while (endless.say(part)) ASSERT_LT(++parts, 64);
  EXPECT_TRUE(wait_until([&] { return counter("connections_endless") == 1; }));
}

// A broker that may open few descriptors.
TEST(HostileCrowd, ABrokerWithoutDescriptorsTurnsConnectionsAway) {
  TemporaryFolder folder;
  Child broker({"/bin/sh", "-c", "ulimit -n 80; exec \"$0\" --listen \"$1\"",
                MUSTER_BIN_DIR "/muster-broker", folder.endpoint("b")});
  ASSERT_TRUE(broker.wait_for_output("listening on")) << broker.error_output();
  const std::vector<std::string> ask = {MUSTER_BIN_DIR "/muster", "status", "--json", "--broker",
                                        folder.endpoint("b")};
  {
    std::vector<std::unique_ptr<testing::RawConnection>> crowd;
    for (int i = 0; i < 200; ++i) {
      crowd.push_back(std::make_unique<testing::RawConnection>(folder.path("b")));
      crowd.back()->say(testing::zmtp_greeting());
    }
    EXPECT_TRUE(crowd.back()->is_ended()) << "more than 80 do not fit";
  }
  EXPECT_TRUE(wait_until([&] {
    const auto served = testing::run_to_end(ask);
    return served.status == 0 &&
           served.output.find("connections_beyond_descriptors") != std::string::npos;
  })) << broker.error_output();
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(), 0) << broker.error_output();
}

TEST_F(HostilePeer, AClaimedRoutingIdIsNeverAnswered) {
  zmq::socket_t raw(context_.native(), zmq::socket_type::dealer);
  raw.set(zmq::sockopt::linger, 0);
  raw.set(zmq::sockopt::routing_id, "me");
  raw.connect(endpoint_);
  const Frames hello =
      encode(message::HelloProducer{limits::kProtocolVersion, "0.1.0", {5, 700}, "claims", false},
             Packing::never);
  ASSERT_TRUE(raw.send(zmq::buffer(hello[0].text())));
  // And another one under the same name.
  zmq::socket_t second(context_.native(), zmq::socket_type::dealer);
  second.set(zmq::sockopt::linger, 0);
  second.set(zmq::sockopt::routing_id, "me");
  second.connect(endpoint_);
  ASSERT_TRUE(second.send(zmq::buffer(hello[0].text())));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(ask_status());
  zmq::message_t answer;
  EXPECT_FALSE(raw.recv(answer, zmq::recv_flags::dontwait));
  EXPECT_EQ(counter("peers_refused"), 0U);
}

}  // namespace
}  // namespace muster
