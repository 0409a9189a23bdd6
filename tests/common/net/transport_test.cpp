// Router and Dealer over real Unix sockets.
#include "common/net/transport.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <zmq.hpp>

#include "tests/support/child.hpp"
#include "tests/support/messages.hpp"

namespace muster {
namespace {

using testing::payload_of;
using testing::TemporaryFolder;
using testing::wait_until;

class Transport : public ::testing::Test {
 protected:
  std::unique_ptr<Router> make_router() {
    auto router = std::make_unique<Router>(context_);
    router->bind(endpoint_);
    return router;
  }
  Received at_router(Router& router) {
    std::optional<Received> received;
    EXPECT_TRUE(wait_until([&] { return (received = router.receive()).has_value(); }));
    return received.value_or(Received{});
  }
  Frames at_dealer(Dealer& dealer) {
    std::optional<Frames> frames;
    EXPECT_TRUE(wait_until([&] { return (frames = dealer.receive()).has_value(); }));
    return frames.value_or(Frames{});
  }
  // Says something and returns how the router names the dealer.
  PeerId greet(Dealer& dealer, Router& router) {
    EXPECT_EQ(dealer.send({Bytes::borrow("hello")}), SendResult::sent);
    return at_router(router).peer;
  }

  TemporaryFolder folder_;
  const std::string endpoint_ = folder_.endpoint("s");
  TransportContext context_;
};

TEST_F(Transport, FramesOfEverySizeArriveIntactBothWays) {
  const auto router = make_router();
  Dealer dealer(context_, endpoint_);
  for (const std::size_t size :
       {0UL, 1UL, 255UL, 256UL, 4096UL, 32767UL, 32768UL, 32769UL, 1UL << 20, 20'000'000UL}) {
    const Frames frames = {Bytes::borrow("head"), payload_of(size).bytes, Bytes{},
                           payload_of(size / 2).bytes};
    ASSERT_EQ(dealer.send(frames), SendResult::sent);
    const Received received = at_router(*router);
    EXPECT_EQ(received.frames, frames) << size;
    ASSERT_EQ(router->send(received.peer, received.frames), SendResult::sent);
    EXPECT_EQ(at_dealer(dealer), frames) << size;
  }
}

TEST_F(Transport, APeersUserIsTheOneThatTheSystemNames) {
  const auto router = make_router();
  Dealer dealer(context_, endpoint_);
  const Message greeting = message::HelloProducer{4, "0.1.0", {1, 2}, "test", false};
  for (const Packing packing : {Packing::never, Packing::when_smaller}) {
    ASSERT_EQ(dealer.send(encode(greeting, packing)), SendResult::sent);
    EXPECT_EQ(at_router(*router).local_user, std::optional<std::uint32_t>(geteuid()));
  }
  ASSERT_EQ(dealer.send(encode(message::Goodbye{}, Packing::never)), SendResult::sent);
  EXPECT_EQ(at_router(*router).local_user, std::nullopt) << "nobody needs to know";
}

TEST_F(Transport, AMessageOfManyFramesStaysOneMessage) {
  const auto router = make_router();
  Dealer dealer(context_, endpoint_);
  const Frames most(limits::kMaxFrames, Bytes::borrow("x"));
  ASSERT_EQ(dealer.send(most), SendResult::sent);
  EXPECT_EQ(at_router(*router).frames.size(), limits::kMaxFrames);
  ASSERT_EQ(dealer.send(Frames(3 * limits::kMaxFrames, Bytes::borrow("x"))), SendResult::sent);
  EXPECT_EQ(at_router(*router).frames.size(), limits::kMaxFrames + 1) << "enough to be refused";
  ASSERT_EQ(dealer.send({Bytes::borrow("next")}), SendResult::sent);
  EXPECT_EQ(at_router(*router).frames, Frames{Bytes::borrow("next")});
}

TEST_F(Transport, LargeFramesAreSentWithoutCopyAndFreedAfterwards) {
  const auto router = make_router();
  Dealer dealer(context_, endpoint_);
  std::atomic<bool> freed{false};
  Bytes received_bytes;
  {
    auto* text = new std::string(1 << 20, 'z');  // its deleter is what this test watches
    const std::shared_ptr<const void> owner(text, [&freed](std::string* gone) {
      delete gone;
      freed = true;
    });
    const Bytes bytes(owner, std::as_bytes(std::span(text->data(), text->size())));
    ASSERT_EQ(dealer.send({bytes}), SendResult::sent);
  }
  received_bytes = at_router(*router).frames.at(0);
  EXPECT_TRUE(wait_until([&] { return freed.load(); })) << "libzmq holds it no longer than needed";
  EXPECT_EQ(received_bytes.size(), std::size_t{1} << 20);
  EXPECT_EQ(received_bytes.text().find_first_not_of('z'), std::string_view::npos);
}

TEST_F(Transport, ConnectionsAreReportedEachTime) {
  auto router = make_router();
  Dealer dealer(context_, endpoint_);
  EXPECT_TRUE(wait_until([&] { return dealer.take_connected(); }));
  EXPECT_FALSE(dealer.take_connected());
  greet(dealer, *router);
  router.reset();
  router = make_router();
  EXPECT_TRUE(wait_until([&] { return dealer.take_connected(); })) << "after a restart";
  greet(dealer, *router);
}

TEST_F(Transport, ADealerMayConnectBeforeTheBrokerExists) {
  Dealer dealer(context_, endpoint_);
  EXPECT_EQ(dealer.send({Bytes::borrow("early")}), SendResult::sent);
  EXPECT_FALSE(dealer.take_connected());
  const auto router = make_router();
  EXPECT_EQ(at_router(*router).frames, Frames{Bytes::borrow("early")});
}

TEST_F(Transport, APeerThatLeftIsGone) {
  const auto router = make_router();
  auto dealer = std::make_unique<Dealer>(context_, endpoint_);
  const PeerId peer = greet(*dealer, *router);
  EXPECT_EQ(router->send(PeerId{0xdeadbeef}, {Bytes::borrow("x")}), SendResult::gone);
  dealer.reset();
  EXPECT_TRUE(wait_until([&] {
    router->receive();  // lets the socket see the end of the connection
    return router->send(peer, {Bytes::borrow("x")}) == SendResult::gone;
  }));
}

TEST_F(Transport, APeerThatDoesNotReadBecomesFull) {
  const auto router = make_router();
  Dealer silent(context_, endpoint_);
  Dealer other(context_, endpoint_);
  const PeerId silent_peer = greet(silent, *router);
  const PeerId other_peer = greet(other, *router);
  const Bytes bytes = payload_of(1000).bytes;
  std::size_t sent = 0;
  while (sent < 1'000'000 && router->send(silent_peer, {bytes}) == SendResult::sent) ++sent;
  EXPECT_GE(sent, 19'000U);
  EXPECT_LE(sent, 100'000U) << "both queues and the socket's buffers bound it";
  EXPECT_EQ(router->send(silent_peer, {bytes, bytes}), SendResult::full);
  ASSERT_EQ(router->send(other_peer, {bytes, bytes}), SendResult::sent);
  EXPECT_EQ(at_dealer(other).size(), 2U) << "the others do not notice";
}

TEST_F(Transport, AnUnreadDealerIsFullToo) {
  const auto router = make_router();
  Dealer dealer(context_, endpoint_);
  greet(dealer, *router);
  const Bytes bytes = payload_of(1000).bytes;
  std::size_t sent = 0;
  while (sent < 1'000'000 && dealer.send({bytes}) == SendResult::sent) ++sent;
  EXPECT_GE(sent, 19'000U);
  EXPECT_LE(sent, 100'000U);
}

TEST_F(Transport, APeerThatChoosesItsRoutingIdIsDroppedAndCounted) {
  const auto router = make_router();
  zmq::socket_t raw(context_.native(), zmq::socket_type::dealer);
  raw.set(zmq::sockopt::linger, 0);
  raw.set(zmq::sockopt::routing_id, "admin");
  raw.connect(endpoint_);
  ASSERT_TRUE(raw.send(zmq::str_buffer("first"), zmq::send_flags::sndmore));
  ASSERT_TRUE(raw.send(zmq::str_buffer("second")));
  EXPECT_TRUE(wait_until([&] {
    EXPECT_FALSE(router->receive());
    return router->refused_identities() == 1;
  }));
  Dealer dealer(context_, endpoint_);
  greet(dealer, *router);
  EXPECT_EQ(router->refused_identities(), 1U);
}

std::string advice_for(const std::string& endpoint) {
  try {
    check_endpoint(endpoint);
  } catch (const TransportError& error) {
    return error.what();
  }
  return "";
}

TEST_F(Transport, EndpointsThatCannotBeUsedSayWhatToDo) {
  EXPECT_EQ(advice_for(endpoint_), "");
  EXPECT_NE(advice_for("tcp://127.0.0.1:5555").find("muster keygen"), std::string::npos);
  for (const char* endpoint : {"", "ipc://", "/tmp/s", "inproc://x", "IPC:///tmp/s"}) {
    EXPECT_NE(advice_for(endpoint).find("ipc:///path/to/socket"), std::string::npos) << endpoint;
  }
  const std::string longest(107, 'x');  // sun_path of Linux, less its final zero
  EXPECT_EQ(advice_for("ipc://" + longest), "");
  EXPECT_NE(advice_for("ipc://" + longest + "x").find("shorter folder"), std::string::npos);
  EXPECT_THROW(Dealer(context_, "tcp://127.0.0.1:5555"), TransportError);
}

std::string advice_for(const std::string& endpoint, Security security) {
  try {
    check_endpoint(endpoint, security);
  } catch (const TransportError& error) {
    return error.what();
  }
  return "";
}

TEST_F(Transport, TcpNeedsASecurityThatFitsWhereItLeads) {
  for (const char* loopback : {"tcp://127.0.0.1:1", "tcp://[::1]:65535", "tcp://localhost:*"}) {
    EXPECT_EQ(advice_for(loopback, Security::plain), "");
    EXPECT_EQ(advice_for(loopback, Security::curve), "");
    EXPECT_NE(advice_for(loopback, Security::local).find("muster keygen"), std::string::npos);
  }
  for (const char* far : {"tcp://10.0.0.1:5555", "tcp://*:5555", "tcp://127.0.0.1.evil.org:5",
                          "tcp://node.example.org:5555", "tcp://[2001:db8::1]:5555"}) {
    EXPECT_NE(advice_for(far, Security::plain).find("unencrypted"), std::string::npos) << far;
    EXPECT_EQ(advice_for(far, Security::trusted), "");
    EXPECT_EQ(advice_for(far, Security::curve), "");
  }
  for (const char* wrong :
       {"tcp://", "tcp://:5555", "tcp://host", "tcp://host:", "tcp://host:0", "tcp://host:65536",
        "tcp://host:5x", "tcp://::1:5555", "tcp://127.0.0.1:1;10.0.0.1:5555", "tcp://a/b:5"}) {
    EXPECT_NE(advice_for(wrong, Security::curve).find("tcp://HOST:PORT"), std::string::npos)
        << wrong;
  }
  EXPECT_EQ(advice_for(endpoint_, Security::plain), "");
  EXPECT_THROW(Dealer(context_, "tcp://127.0.0.1:*", PlainLogin{"u", "p"}), TransportError);
}

TEST_F(Transport, WithoutAZapHandlerNobodyIsAdmitted) {
  Router router(context_);
  const std::string plain = router.bind("tcp://127.0.0.1:*", {Security::plain});
  Dealer dealer(context_, plain, PlainLogin{"ada", "secret"});
  // Somebody who may come in takes the router through as much time as the other one had.
  router.bind(endpoint_);
  for (int i = 0; i < 20; ++i) {
    Dealer local(context_, endpoint_);
    ASSERT_EQ(local.send({Bytes::borrow("hello")}), SendResult::sent);
    EXPECT_FALSE(at_router(router).remote);
    dealer.send({Bytes::borrow("let me in")});
  }
  EXPECT_FALSE(dealer.take_connected());
}

TEST_F(Transport, AFolderThatCannotBeWrittenIsNamed) {
  Router router(context_);
  try {
    router.bind("ipc:///proc/muster-test/s");
    FAIL() << "bound below /proc";
  } catch (const TransportError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("/proc/muster-test/s"), std::string::npos) << text;
    EXPECT_NE(text.find("folder"), std::string::npos) << text;
  }
}

TEST_F(Transport, ThePollerWakesForSocketsDescriptorsAndTheEndOfAPipe) {
  const auto router = make_router();
  testing::Pipe data = testing::make_pipe();
  testing::Pipe lifeline = testing::make_pipe();
  Poller poller;
  router->watch(poller);
  poller.watch(data.read_end.get());
  poller.watch(lifeline.read_end.get());
  poller.wait(std::chrono::nanoseconds(0));
  EXPECT_FALSE(poller.readable(0) || poller.readable(1));
  ASSERT_EQ(write(data.write_end.get(), "x", 1), 1);
  poller.wait(testing::kPatience);
  EXPECT_TRUE(poller.readable(0));
  EXPECT_FALSE(poller.readable(1));
  lifeline.write_end.reset();
  poller.wait(testing::kPatience);
  EXPECT_TRUE(poller.readable(1)) << "an end of file can be read";
}

}  // namespace
}  // namespace muster
