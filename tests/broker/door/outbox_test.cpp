// What peers do not read is bounded, and whoever reads gets everything in order.
#include "broker/door/outbox.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "tests/support/child.hpp"

namespace muster {
namespace {

using testing::wait_until;

constexpr std::size_t kValueBytes = 512 << 10;

class OutboxTest : public ::testing::Test {
 protected:
  OutboxTest() {
    router_.bind(endpoint_);
    EXPECT_EQ(dealer_.send({Bytes::borrow("hello")}), SendResult::sent);
    std::optional<Received> received;
    EXPECT_TRUE(wait_until([&] { return (received = router_.receive()).has_value(); }));
    if (received) peer_ = received->peer;
  }
  SendResult answer(std::uint64_t token) {
    message::StoreAnswer said;
    said.token = token;
    said.reply.value = value_;
    return outbox_.send(peer_, std::move(said), now_);
  }
  // Sends answers until the peer counts as one that does not read.
  std::uint64_t fill() {
    std::uint64_t sent = 0;
    while (answer(sent) == SendResult::sent && sent < 1000) ++sent;
    return sent;
  }
  // Reads what is there, answering marks, until `is_done`; the tokens of the answers.
  std::vector<std::uint64_t> read_until(const std::function<bool()>& is_done) {
    EXPECT_TRUE(wait_until([&] {
      while (auto frames = dealer_.receive()) take(*frames);
      while (auto received = router_.receive()) hear(*received);
      return is_done();
    }));
    return tokens_;
  }
  void take(Frames& frames) {
    const Message message = std::get<Message>(decode(frames));
    if (const auto* beat = std::get_if<message::Heartbeat>(&message)) {
      EXPECT_TRUE(beat->reply_wanted);
      ++marks_;
      EXPECT_EQ(dealer_.send(encode(message::Heartbeat{beat->token, false}, Packing::never)),
                SendResult::sent);
    } else if (const auto* said = std::get_if<message::StoreAnswer>(&message)) {
      tokens_.push_back(said->token);
    } else {
      statuses_ += std::holds_alternative<message::Status>(message) ? 1 : 0;
    }
  }
  void hear(Received& received) {
    const Message message = std::get<Message>(decode(received.frames));
    const auto* beat = std::get_if<message::Heartbeat>(&message);
    ASSERT_NE(beat, nullptr);
    EXPECT_TRUE(outbox_.heard(received.peer, *beat, now_));
  }

  testing::TemporaryFolder folder_;
  const std::string endpoint_ = folder_.endpoint("s");
  TransportContext context_;
  Router router_{context_};
  Dealer dealer_{context_, endpoint_};
  Outbox outbox_{router_};
  PeerId peer_{};
  Time now_{std::chrono::hours(1)};
  const Bytes value_ = Bytes::copy(std::string(kValueBytes, 'v'));
  std::vector<std::uint64_t> tokens_;
  int marks_ = 0;
  int statuses_ = 0;
};

TEST_F(OutboxTest, WhatAPeerDoesNotReadIsBoundedInBytes) {
  const std::uint64_t sent = fill();
  EXPECT_LT(sent * kValueBytes, std::uint64_t{128} << 20);
  EXPECT_LT(outbox_.unread_bytes(), std::uint64_t{40} << 20) << "what waited is given up";
  EXPECT_EQ(answer(0), SendResult::full) << "until it reads";
  read_until([&] { return outbox_.unread_bytes() < std::uint64_t{1} << 20; });
  EXPECT_EQ(answer(7), SendResult::sent);
}

TEST_F(OutboxTest, AReaderGetsEverythingInOrder) {
  constexpr std::uint64_t kAnswers = 160;  // more than the window
  for (std::uint64_t i = 0; i < kAnswers; ++i) ASSERT_EQ(answer(i), SendResult::sent);
  read_until([&] { return tokens_.size() == kAnswers; });
  for (std::uint64_t i = 0; i < kAnswers; ++i) ASSERT_EQ(tokens_[i], i);
  EXPECT_LE(marks_, 80) << "one for each MiB";
}

TEST_F(OutboxTest, FewBytesNeedNoMark) {
  for (std::uint32_t i = 0; i < 100; ++i) {
    ASSERT_EQ(outbox_.send(peer_, message::Notice{JobId{i}, "waits"}, now_), SendResult::sent);
  }
  ASSERT_EQ(answer(1), SendResult::sent);
  read_until([&] { return !tokens_.empty(); });
  EXPECT_EQ(marks_, 0);
}

TEST_F(OutboxTest, AnAnswerThatIsMadeUpReadsNothing) {
  fill();
  const std::uint64_t unread = outbox_.unread_bytes();
  for (std::uint64_t token = 0; token < 1000; ++token) {
    EXPECT_FALSE(outbox_.heard(peer_, {token, false}, now_));
  }
  EXPECT_EQ(outbox_.unread_bytes(), unread);
}

TEST_F(OutboxTest, OneStatusIsOnItsWayToAPeerAndEveryRequestIsAnswered) {
  ASSERT_TRUE(outbox_.may_have_status(peer_));
  ASSERT_EQ(outbox_.send(peer_, message::Status{}, now_), SendResult::sent);
  EXPECT_FALSE(outbox_.may_have_status(peer_));
  EXPECT_FALSE(outbox_.may_have_status(peer_));
  EXPECT_TRUE(outbox_.take_due_requests().empty());
  for (int answered = 1; answered <= 2; ++answered) {
    std::vector<PeerId> due;
    read_until([&] { return !(due = outbox_.take_due_requests()).empty(); });
    EXPECT_EQ(due, std::vector{peer_});
    EXPECT_EQ(statuses_, answered);
    ASSERT_EQ(outbox_.send(peer_, message::Status{}, now_), SendResult::sent);
  }
  read_until([&] { return outbox_.unread_bytes() == 0; });
  EXPECT_TRUE(outbox_.take_due_requests().empty());
  EXPECT_TRUE(outbox_.may_have_status(peer_));
}

TEST_F(OutboxTest, APeerThatReadsNothingForAMinuteIsLost) {
  for (int i = 0; i < 100; ++i) ASSERT_EQ(answer(1), SendResult::sent);
  EXPECT_TRUE(outbox_.take_lost(now_).empty());
  now_ += std::chrono::minutes(2);
  const auto lost = outbox_.take_lost(now_);
  ASSERT_EQ(lost.size(), 1U);
  EXPECT_EQ(lost[0], std::pair(peer_, SendResult::full));
  EXPECT_EQ(answer(2), SendResult::full);
}

TEST_F(OutboxTest, WelcomeBeginsAnew) {
  for (int i = 0; i < 100; ++i) ASSERT_EQ(answer(1), SendResult::sent);
  const std::uint64_t before = outbox_.unread_bytes();
  EXPECT_EQ(outbox_.send(peer_, message::Welcome{}, now_), SendResult::sent);
  EXPECT_LT(outbox_.unread_bytes(), before) << "what waited is asked for again";
}

}  // namespace
}  // namespace muster
