// What libzmq would abort for, or keep without end, never reaches a Router.
#include "common/net/connection_gate.hpp"

#include <gtest/gtest.h>

#include "common/net/transport.hpp"
#include "tests/support/child.hpp"
#include "tests/support/zmtp.hpp"

namespace muster {
namespace {

using testing::RawConnection;
using testing::wait_until;
using testing::zmtp_greeting;
using testing::zmtp_part;
using testing::zmtp_ready;

class ConnectionGate : public ::testing::Test {
 protected:
  ConnectionGate() { router_.bind(endpoint_); }
  ~ConnectionGate() override { gate::set_ceiling(1 << 16); }
  // Somebody who behaves is served.
  PeerId greet(Dealer& dealer) {
    EXPECT_EQ(dealer.send({Bytes::borrow("hello")}), SendResult::sent);
    std::optional<Received> received;
    EXPECT_TRUE(wait_until([&] { return (received = router_.receive()).has_value(); }));
    return received ? received->peer : PeerId{};
  }

  testing::TemporaryFolder folder_;
  const std::string endpoint_ = folder_.endpoint("s");
  const std::string path_ = folder_.path("s");
  TransportContext context_;
  Router router_{context_};
  const gate::Refused before_ = gate::refused();
};

TEST_F(ConnectionGate, APeerThatClaimsTheNextRoutingIdsIsCutOff) {
  Dealer first(context_, endpoint_);
  const auto last = static_cast<std::uint32_t>(greet(first));
  for (std::uint32_t next = last + 1; next <= last + 3; ++next) {
    std::string id(1, '\0');
    for (int shift = 24; shift >= 0; shift -= 8) id += static_cast<char>(next >> shift);
    RawConnection claiming(path_);
    ASSERT_TRUE(claiming.say(zmtp_greeting() + zmtp_ready(id)));
    EXPECT_TRUE(claiming.is_ended());
  }
  for (int i = 0; i < 4; ++i) {
    Dealer other(context_, endpoint_);
    greet(other);
  }
  EXPECT_EQ(gate::refused().claiming, before_.claiming + 3);
}

TEST_F(ConnectionGate, AMessageWithoutEndIsCutOff) {
  RawConnection endless(path_);
  ASSERT_TRUE(endless.shake_hands());
  const std::string part = zmtp_part(std::string(1 << 20, 'x'));
  int parts = 0;
  while (endless.say(part)) ASSERT_LT(++parts, 64);
  EXPECT_EQ(gate::refused().endless, before_.endless + 1);
  Dealer dealer(context_, endpoint_);
  greet(dealer);
}

TEST_F(ConnectionGate, WhatIsNotZmtpIsCutOff) {
  RawConnection foreign(path_);
  ASSERT_TRUE(foreign.say("GET / HTTP/1.1\r\n\r\n"));
  EXPECT_TRUE(foreign.is_ended());
  EXPECT_EQ(gate::refused().foreign, before_.foreign + 1);
}

TEST_F(ConnectionGate, ConnectionsBeyondTheCeilingAreTurnedAway) {
  Dealer before(context_, endpoint_);
  greet(before);
  const Descriptor next(::dup(STDERR_FILENO));
  gate::set_ceiling(next.get());
  RawConnection late(path_);
  EXPECT_TRUE(late.is_ended());
  EXPECT_GE(gate::refused().full, before_.full + 1);
  greet(before);
  gate::set_ceiling(1 << 16);
  Dealer after(context_, endpoint_);
  greet(after);
}

TEST_F(ConnectionGate, RoutersBeginTheirIdsWhereNobodyCanGuess) {
  Router other(context_);
  other.bind(folder_.endpoint("o"));
  Dealer here(context_, endpoint_);
  Dealer there(context_, folder_.endpoint("o"));
  const PeerId one = greet(here);
  EXPECT_EQ(there.send({Bytes::borrow("hello")}), SendResult::sent);
  std::optional<Received> received;
  ASSERT_TRUE(wait_until([&] { return (received = other.receive()).has_value(); }));
  EXPECT_NE(one, received->peer);
  // What rand() gives in a process that has not seeded it.
  constexpr std::uint32_t kUnseeded = 0x6b8b4567;
  for (const PeerId id : {one, received->peer}) {
    EXPECT_GT(static_cast<std::uint32_t>(id) - kUnseeded, 1000U);
  }
}

}  // namespace
}  // namespace muster
