// NODES_UP and NODES_DOWN pass through the scheduler; STATUS shows the rows it was given.
#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

class SchedulerNodesTest : public SchedulerTest {
 protected:
  const message::NodesAnswer* answer_to(PeerId producer) {
    return find_other<message::NodesAnswer>(producers_.at(producer).other);
  }
};

TEST_F(SchedulerNodesTest, RequestsComeOutInOrderAndAreAnswered) {
  const PeerId ada = add_producer(1);
  const PeerId bob = add_producer(2);
  send(ada, message::NodesUp{"hosts = [\"a\"]", "pool.toml"});
  send(bob, message::NodesDown{{"a"}, true});
  const auto requests = scheduler_->take_node_requests();
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_EQ(requests[0].peer, ada);
  EXPECT_EQ(std::get<message::NodesUp>(requests[0].request).origin, "pool.toml");
  EXPECT_TRUE(std::get<message::NodesDown>(requests[1].request).end_broker);
  EXPECT_TRUE(scheduler_->take_node_requests().empty());

  scheduler_->answer(ada, {"", {"a"}});
  pass(1ms);
  ASSERT_NE(answer_to(ada), nullptr);
  EXPECT_EQ(answer_to(ada)->names, std::vector<std::string>{"a"});
  EXPECT_EQ(answer_to(bob), nullptr);
}

TEST_F(SchedulerNodesTest, WhoLeftGetsNoAnswer) {
  const PeerId ada = add_producer(1);
  send(ada, message::NodesUp{"hosts = [\"a\"]", "pool.toml"});
  send(ada, message::Goodbye{});
  for (const NodeRequest& request : scheduler_->take_node_requests()) {
    scheduler_->answer(request.peer, {"", {"a"}});
  }
  pass(1ms);
  EXPECT_EQ(answer_to(ada), nullptr);
}

TEST_F(SchedulerNodesTest, AWorkerMayNotAsk) {
  const PeerId worker = add_worker(1, 2);
  send(worker, message::NodesDown{{}, true});
  EXPECT_TRUE(scheduler_->take_node_requests().empty());
  EXPECT_NE(find_other<message::Refuse>(workers_.at(worker).other), nullptr);
}

TEST_F(SchedulerNodesTest, StatusShowsTheRowsWithTheirWorkersRoundTrip) {
  const PeerId worker = add_worker(1, 2);  // on node "node"
  const std::uint64_t sent_at = static_cast<std::uint64_t>(now_.count());
  now_ += 40ms;
  send(worker, message::Heartbeat{sent_at, false});
  message::NodeStatus known;
  known.name = "node";
  known.address = "ada@node:22";
  message::NodeStatus other;
  other.name = "other";
  other.state = "failed";
  scheduler_->set_nodes({known, other});
  const message::Status status = scheduler_->status(now_);
  ASSERT_EQ(status.nodes.size(), 2U);
  EXPECT_EQ(status.nodes[0].address, "ada@node:22");
  EXPECT_EQ(status.nodes[0].round_trip_us, 40'000U);
  EXPECT_EQ(status.nodes[1].state, "failed");
  EXPECT_EQ(status.nodes[1].round_trip_us, 0U);
  scheduler_->set_nodes({});
  EXPECT_TRUE(scheduler_->status(now_).nodes.empty());
}

}  // namespace
}  // namespace muster
