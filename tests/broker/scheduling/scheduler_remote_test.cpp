// Peers that came through an endpoint which authenticates: who they are decides what they may do.
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

using message::RefuseCode;

class RemotePeers : public SchedulerTest {
 protected:
  // A worker of this id says HELLO on a new connection; what it was answered.
  const std::vector<Message>& greet(PeerId peer, std::uint64_t id, const RemoteUser* user) {
    message::HelloWorker hello;
    hello.worker = {id, 99};
    hello.slots = 1;
    hello.functions = {"f"};
    workers_[peer].id = hello.worker;
    send(peer, hello, user);
    return workers_[peer].other;
  }
  void expect_refused(const std::vector<Message>& answers, std::string_view why) {
    const auto* refuse = find_other<message::Refuse>(answers);
    ASSERT_NE(refuse, nullptr);
    EXPECT_EQ(refuse->code, RefuseCode::identity);
    EXPECT_NE(refuse->text.find(why), std::string::npos) << refuse->text;
    EXPECT_EQ(find_other<message::Welcome>(answers), nullptr);
  }
  std::uint32_t slots() const { return scheduler_->status(now_).total_slots; }

  const PeerId first_{501};
  const PeerId second_{502};
  const RemoteUser ada_{"ada", "proof of ada"};
  const RemoteUser bob_{"bob", ""};
};

TEST_F(RemotePeers, AWorkerLearnsTheProofAndPacks) {
  const auto* welcome = find_other<message::Welcome>(greet(first_, 1, &ada_));
  ASSERT_NE(welcome, nullptr);
  EXPECT_EQ(welcome->proof, "proof of ada");
  EXPECT_TRUE(welcome->pack);
  const auto* local = find_other<message::Welcome>(greet(second_, 2, nullptr));
  ASSERT_NE(local, nullptr);
  EXPECT_EQ(local->proof, "");
  EXPECT_FALSE(local->pack);
  EXPECT_EQ(slots(), 2U);
}

TEST_F(RemotePeers, AProducerIsRefusedAndToldWhereToGo) {
  message::HelloProducer hello;
  hello.session = {7, 77};
  producers_[first_].id = hello.session;
  send(first_, hello, &ada_);
  expect_refused(producers_[first_].other, "ipc://");
  EXPECT_EQ(scheduler_->status(now_).sessions, 0U);
}

TEST_F(RemotePeers, AWorkerIdBelongsToWhoSaidItFirst) {
  const PeerId producer = add_producer(1);
  declare(producer, 1);
  greet(first_, 1, &ada_);
  submit(producer, JobId{1}, 0, 1);
  ASSERT_EQ(sequences(first_).size(), 1U);
  expect_refused(greet(second_, 1, &bob_), "another user");
  expect_refused(greet(PeerId{503}, 1, nullptr), "another user");
  EXPECT_EQ(slots(), 1U) << "the owner is not disturbed";
  finish(first_, 1);
  EXPECT_EQ(producers_[producer].outcomes.size(), 1U);
  const auto* again = find_other<message::Welcome>(greet(PeerId{504}, 1, &ada_));
  EXPECT_NE(again, nullptr) << "the owner itself may come back on a new connection";
}

TEST_F(RemotePeers, NobodyRemoteTakesALocalWorkersId) {
  greet(first_, 1, nullptr);
  expect_refused(greet(second_, 1, &ada_), "another user");
  EXPECT_EQ(slots(), 1U);
}

TEST_F(RemotePeers, ARevokedUserLosesItsWorkersAndCannotGreet) {
  const PeerId producer = add_producer(1);
  declare(producer, 1);
  greet(first_, 1, &ada_);
  greet(second_, 2, &bob_);
  submit(producer, JobId{1}, 0, 2);
  const std::size_t before = sequences(second_).size();
  scheduler_->revoke("ada");
  send(producer, message::Heartbeat{});
  ASSERT_NE(find_other<message::Refuse>(workers_[first_].other), nullptr);
  EXPECT_EQ(slots(), 1U);
  finish(second_, before);
  EXPECT_EQ(sequences(second_).size(), 1U) << "its task runs elsewhere";
  RemoteUser late = ada_;
  late.is_admitted = false;
  expect_refused(greet(PeerId{505}, 3, &late), "no longer authorized");
  scheduler_->revoke("");
  EXPECT_EQ(slots(), 1U);
}

}  // namespace
}  // namespace muster
