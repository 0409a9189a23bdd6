// Who gets through an endpoint that authenticates, over real sockets: Router, Dealer and the ZAP
// handler between them.
#include "broker/door/authenticator.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <zmq.hpp>

#include "common/net/key_file.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

using testing::TemporaryFolder;
using testing::wait_until;

// A broker's sockets: one endpoint of each kind.
class Authentication : public ::testing::Test {
 protected:
  Authentication() {
    router_.bind(local_);
    router_.bind(plain_, {Security::plain});
    curve_ = router_.bind("tcp://127.0.0.1:*", {Security::curve, server_.secret_key});
  }

  CurveLogin login_of(const KeyPair& pair) const {
    return {server_.public_key, pair.public_key, pair.secret_key};
  }
  // What the router gets from a new dealer; nothing when that is refused.
  std::optional<Received> knock(const std::string& endpoint, const Login& login) {
    dealer_ = std::make_unique<Dealer>(context_, endpoint, login);
    std::optional<Received> received;
    bool knocked = false;
    bool refused = false;
    EXPECT_TRUE(wait_until([&] {
      // With a password nothing waits for a connection.
      knocked = knocked || dealer_->send({Bytes::borrow("knock")}) == SendResult::sent;
      received = router_.receive();
      refused = refused || dealer_->take_refused();
      return received || refused;
    })) << "neither admitted nor refused";
    return received;
  }
  // Nobody comes in while others, who may, come in again and again.
  void expect_nothing_but_local_peers() {
    for (int i = 0; i < 20; ++i) {
      Dealer friendly(context_, local_);
      ASSERT_EQ(friendly.send({Bytes::borrow("hello")}), SendResult::sent);
      std::optional<Received> received;
      ASSERT_TRUE(wait_until([&] { return (received = router_.receive()).has_value(); }));
      EXPECT_FALSE(received->remote);
      EXPECT_EQ(received->user, "");
    }
  }

  TemporaryFolder folder_;
  const std::string local_ = folder_.endpoint("local");
  const std::string plain_ = folder_.endpoint("plain");
  const KeyPair server_ = make_key_pair("broker");
  TransportContext context_;
  std::optional<Authenticator> authenticator_{std::in_place, context_};
  Router router_{context_};
  std::string curve_;
  std::unique_ptr<Dealer> dealer_;
};

TEST_F(Authentication, APasswordLetsItsUserInAndNamesIt) {
  authenticator_->allow("ada", "secret", "proof of ada");
  const auto received = knock(plain_, PlainLogin{"ada", "secret"});
  ASSERT_TRUE(received);
  EXPECT_EQ(received->user, "ada");
  EXPECT_TRUE(received->remote);
  EXPECT_TRUE(router_.is_remote(received->peer));
  EXPECT_EQ(router_.send(received->peer, {Bytes::borrow("welcome")}), SendResult::sent);
  EXPECT_TRUE(wait_until([&] { return dealer_->receive().has_value(); }));
  EXPECT_EQ(authenticator_->proof("ada"), "proof of ada");
  EXPECT_EQ(authenticator_->refused(), 0U);
}

TEST_F(Authentication, ASecretLetsItsUserInOverATrustedNetwork) {
  const std::string trusted = router_.bind("tcp://0.0.0.0:*", {Security::trusted});
  EXPECT_NO_THROW(authenticator_->self_test(context_, trusted, Security::trusted));
  authenticator_->allow("cluster", "secret", "proof");
  EXPECT_FALSE(knock(trusted, PlainLogin{"cluster", "guess", true}));
  EXPECT_FALSE(knock(trusted, PlainLogin{"nobody", "secret", true}));
  const KeyPair keys = make_key_pair("cluster");
  authenticator_->allow_keys({{"cluster", keys.public_key}});
  EXPECT_FALSE(knock(trusted, login_of(keys)));
  const auto received = knock(trusted, PlainLogin{"cluster", "secret", true});
  ASSERT_TRUE(received);
  EXPECT_EQ(received->user, "cluster");
  EXPECT_TRUE(received->remote);
  EXPECT_THROW(Dealer(context_, "tcp://192.0.2.1:5670", PlainLogin{"cluster", "secret"}),
               TransportError)
      << "only who said so sends a password over a network";
}

TEST_F(Authentication, WrongLoginsAreRefusedAndCounted) {
  authenticator_->allow("ada", "secret", "");
  for (const PlainLogin& login : {PlainLogin{"ada", "secreT"}, PlainLogin{"ada", "secre"},
                                  PlainLogin{"ada", "secretsecret"}, PlainLogin{"bob", "secret"}}) {
    EXPECT_FALSE(knock(plain_, login)) << login.user;
  }
  EXPECT_EQ(authenticator_->refused(), 4U);
  EXPECT_TRUE(knock(plain_, PlainLogin{"ada", "secret"}));
}

TEST_F(Authentication, ANewPasswordVoidsTheOldAndARevokedUserHasNone) {
  authenticator_->allow("ada", "first", "1");
  authenticator_->allow("ada", "second", "2");
  EXPECT_FALSE(knock(plain_, PlainLogin{"ada", "first"}));
  EXPECT_TRUE(knock(plain_, PlainLogin{"ada", "second"}));
  EXPECT_EQ(authenticator_->proof("ada"), "2");
  authenticator_->revoke("ada");
  EXPECT_FALSE(knock(plain_, PlainLogin{"ada", "second"}));
  EXPECT_EQ(authenticator_->proof("ada"), "");
  EXPECT_FALSE(authenticator_->admits("ada"));
}

TEST_F(Authentication, AKeyLetsItsOwnerIn) {
  const KeyPair worker = make_key_pair("node1");
  EXPECT_FALSE(knock(curve_, login_of(worker))) << "not authorized yet";
  authenticator_->allow_keys({{"node1", worker.public_key}});
  const auto received = knock(curve_, login_of(worker));
  ASSERT_TRUE(received);
  EXPECT_EQ(received->user, "node1");
  EXPECT_TRUE(received->remote);
  const KeyPair other = make_key_pair("node1");
  EXPECT_FALSE(knock(curve_, login_of(other))) << "the name alone is worth nothing";
  // Somebody else's public key without the secret one that belongs to it.
  Dealer thief(context_, curve_,
               CurveLogin{server_.public_key, worker.public_key, other.secret_key});
  ASSERT_EQ(thief.send({Bytes::borrow("hello")}), SendResult::sent);
  expect_nothing_but_local_peers();
  EXPECT_FALSE(thief.take_connected());
}

TEST_F(Authentication, AllowKeysTellsWhoseKeysAreGone) {
  const KeyPair a = make_key_pair("a");
  const KeyPair b = make_key_pair("b");
  EXPECT_TRUE(authenticator_->allow_keys({{"a", a.public_key}, {"b", b.public_key}}).empty());
  EXPECT_EQ(authenticator_->allow_keys({{"a", a.public_key}}), std::vector<std::string>{"b"});
  EXPECT_FALSE(authenticator_->admits("b"));
  EXPECT_THROW(authenticator_->allow_keys({{"c", "no key"}}), TransportError);
  EXPECT_TRUE(authenticator_->admits("a")) << "a bad list changes nothing";
  EXPECT_FALSE(knock(curve_, login_of(b)));
}

TEST_F(Authentication, AUserOfATunnelMayHaveAKeyToo) {
  const KeyPair worker = make_key_pair("ada");
  authenticator_->allow("ada", "secret", "proof", worker.public_key);
  const auto received = knock(curve_, login_of(worker));
  ASSERT_TRUE(received);
  EXPECT_EQ(received->user, "ada");
  authenticator_->allow("ada", "next", "proof");
  EXPECT_FALSE(knock(curve_, login_of(worker))) << "as single-use as the password";
}

TEST_F(Authentication, AnotherMechanismThanTheEndpointsGetsNobodyIn) {
  authenticator_->allow("ada", "secret", "");
  const KeyPair worker = make_key_pair("ada");
  authenticator_->allow_keys({{"ada", worker.public_key}});
  EXPECT_FALSE(knock(curve_, PlainLogin{"ada", "secret"}));
  EXPECT_FALSE(knock(plain_, login_of(worker)));
  EXPECT_FALSE(knock(local_, PlainLogin{"ada", "secret"}));
  EXPECT_FALSE(knock(plain_, {}));
  // A plain ZeroMQ client, over TCP too; it even claims a routing id.
  zmq::socket_t raw(context_.native(), zmq::socket_type::dealer);
  raw.set(zmq::sockopt::linger, 0);
  raw.set(zmq::sockopt::routing_id, "admin");
  raw.connect(curve_);
  raw.connect(plain_);
  for (int i = 0; i < 2; ++i) raw.send(zmq::str_buffer("let me in"), zmq::send_flags::dontwait);
  expect_nothing_but_local_peers();
  EXPECT_EQ(router_.refused_identities(), 0U) << "no message of theirs was ever read";
  EXPECT_EQ(router_.refused_strangers(), 0U);
}

TEST_F(Authentication, AWrongServerKeyMeetsNobody) {
  const KeyPair worker = make_key_pair("node1");
  authenticator_->allow_keys({{"node1", worker.public_key}});
  const KeyPair impostor = make_key_pair("broker");
  Dealer dealer(context_, curve_,
                CurveLogin{impostor.public_key, worker.public_key, worker.secret_key});
  ASSERT_EQ(dealer.send({Bytes::borrow("hello")}), SendResult::sent);
  expect_nothing_but_local_peers();
  EXPECT_FALSE(dealer.take_connected());
}

TEST_F(Authentication, WithoutItsHandlerNobodyNewIsAdmitted) {
  authenticator_->allow("ada", "secret", "");
  const KeyPair worker = make_key_pair("node1");
  authenticator_->allow_keys({{"node1", worker.public_key}});
  const auto before = knock(plain_, PlainLogin{"ada", "secret"});
  ASSERT_TRUE(before);
  const auto early = std::move(dealer_);
  authenticator_.reset();
  Dealer plain(context_, plain_, PlainLogin{"ada", "secret"});
  Dealer curve(context_, curve_, login_of(worker));
  ASSERT_EQ(curve.send({Bytes::borrow("hello")}), SendResult::sent);
  expect_nothing_but_local_peers();
  plain.send({Bytes::borrow("hello")});
  expect_nothing_but_local_peers();
  EXPECT_FALSE(plain.take_connected() || curve.take_connected());
  ASSERT_EQ(early->send({Bytes::borrow("still here")}), SendResult::sent);
  std::optional<Received> received;
  EXPECT_TRUE(wait_until([&] { return (received = router_.receive()).has_value(); }));
  EXPECT_EQ(received->peer, before->peer) << "who was in stays in";
}

TEST_F(Authentication, TheSelfTestTellsAnOpenDoor) {
  EXPECT_NO_THROW(authenticator_->self_test(context_, plain_, Security::plain));
  EXPECT_NO_THROW(authenticator_->self_test(context_, curve_, Security::curve, server_.public_key));
  EXPECT_EQ(authenticator_->refused(), 0U) << "that was nobody from outside";
  // A CURVE server in a context without a handler, as libzmq has it by default.
  TransportContext open_context;
  zmq::socket_t open_door(open_context.native(), zmq::socket_type::router);
  open_door.set(zmq::sockopt::curve_server, true);
  open_door.set(zmq::sockopt::curve_secretkey, server_.secret_key);
  open_door.bind(folder_.endpoint("open"));
  try {
    authenticator_->self_test(open_context, folder_.endpoint("open"), Security::curve,
                              server_.public_key);
    FAIL() << "took an open door for a closed one";
  } catch (const TransportError& error) {
    EXPECT_NE(std::string(error.what()).find("admits a wrong login"), std::string::npos);
  }
}

TEST_F(Authentication, LoginsThatCannotWorkAreRefusedAtOnce) {
  EXPECT_THROW(authenticator_->allow("", "secret", ""), TransportError);
  EXPECT_THROW(authenticator_->allow("ada", "", ""), TransportError);
  EXPECT_THROW(authenticator_->allow("ada", std::string(256, 'x'), ""), TransportError);
  EXPECT_THROW(authenticator_->allow("ada", "secret", "", "no key"), TransportError);
  EXPECT_THROW(Dealer(context_, plain_, PlainLogin{"ada", std::string(256, 'x')}), TransportError);
  EXPECT_THROW(Dealer(context_, curve_, CurveLogin{"short", "short", "short"}), TransportError);
  EXPECT_THROW(Router(context_).bind(curve_, {Security::curve, "short"}), TransportError);
  try {
    const CurveLogin mangled{server_.public_key, server_.public_key, "hunter2"};
    const Dealer dealer(context_, curve_, mangled);
    FAIL() << "took a mangled key";
  } catch (const TransportError& error) {
    EXPECT_EQ(std::string(error.what()).find("hunter2"), std::string::npos);
  }
}

}  // namespace
}  // namespace muster
