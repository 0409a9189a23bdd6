// NODES_UP and NODES_DOWN on the loop's side, with real nodes: hosts that nobody reaches.
#include "broker/nodes/nodes_control.hpp"

#include <poll.h>

#include <fstream>

#include "broker/nodes/node.hpp"
#include "tests/broker/scheduling/environment.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

using testing::wait_until;

Host unreachable(const std::string& name) {
  Host host;
  host.name = name;
  host.address = "127.0.0.1";
  host.port = 1;  // nobody listens there
  return host;
}

class NodesControlTest : public SchedulerTest {
 protected:
  NodesControlTest() {
    node_options_.tunnel_socket = folder_.path("tunnel");
    node_options_.drain = std::chrono::seconds(0);
  }
  std::string hosts(const std::string& name, const std::string& more = "") const {
    return "[[host]]\naddress = \"127.0.0.1:1\"\nname = \"" + name + "\"\n" + more;
  }
  // The names in the answers that came, one after the other; "(error)" for one that says no.
  std::vector<std::string> answers(PeerId producer) {
    pass(1ms);
    std::vector<std::string> names;
    for (const Message& message : producers_.at(producer).other) {
      const auto* answer = std::get_if<message::NodesAnswer>(&message);
      if (answer == nullptr) continue;
      names.push_back(answer->names.empty() ? "(error)" : answer->names.front());
    }
    return names;
  }
  using Names = std::vector<std::string>;

  testing::TemporaryFolder folder_;
  TransportContext context_;
  Authenticator authenticator_{context_};
  NodePoolOptions node_options_;
};

// Plug-ins may be large: the turn in which hosts are asked for does not wait for their digests.
TEST_F(NodesControlTest, ReadsHostsAndTheirPluginsBesideTheLoop) {
  const std::string plugin = folder_.path("libtasks.so");
  std::ofstream(plugin) << "content";
  NodesControl control(node_options_, "ipc://x", authenticator_);
  const PeerId ada = add_producer(1);
  send(ada, message::NodesUp{hosts("a", "plugins = [\"" + plugin + "\"]\n"), "pool.toml"});
  control.step(*scheduler_, now_);
  EXPECT_EQ(answers(ada), Names{}) << "that is read on a thread";
  pollfd bell{control.descriptor(), POLLIN, 0};
  ASSERT_EQ(::poll(&bell, 1, 60'000), 1) << "it wakes the loop";
  control.step(*scheduler_, now_);
  EXPECT_EQ(answers(ada), Names{"a"});
}

TEST_F(NodesControlTest, AnswersInTheOrderOfTheQuestions) {
  NodesControl control(node_options_, "ipc://x", authenticator_);
  const PeerId ada = add_producer(1);
  send(ada, message::NodesUp{hosts("a"), "pool.toml"});
  send(ada, message::NodesDown{{"a"}, false});
  send(ada, message::NodesUp{hosts("b", "nonsense = 1\n"), "pool.toml"});
  send(ada, message::NodesUp{hosts("c"), "pool.toml"});
  EXPECT_TRUE(wait_until([&] {
    control.step(*scheduler_, now_);
    return answers(ada).size() == 4;
  }));
  EXPECT_EQ(answers(ada), (Names{"a", "a", "(error)", "c"}));
}

// Its thread may be at its very end when the host is wanted again.
TEST_F(NodesControlTest, ANodeThatIsOverSaysThatItWillNotComeUpAgain) {
  Node node(unreachable("a"), node_options_, authenticator_, [] {});
  EXPECT_TRUE(node.replace(unreachable("a"), std::chrono::seconds(0)));
  EXPECT_FALSE(node.ending()) << "it comes up again";
  node.down(std::chrono::seconds(0));
  ASSERT_TRUE(wait_until([&] { return node.over(); }));
  EXPECT_FALSE(node.replace(unreachable("a"), std::chrono::seconds(0)));
}

TEST_F(NodesControlTest, AnUpThatFollowsADownIsNotLost) {
  NodePool pool(node_options_, authenticator_);
  for (int i = 0; i < 50; ++i) {
    pool.up({unreachable("a")});
    EXPECT_TRUE(pool.down({"a"}));
  }
  pool.up({unreachable("a")});
  EXPECT_TRUE(wait_until([&] {
    const auto rows = pool.rows();
    return rows.size() == 1 && rows.front().state != "ending";
  }));
}

}  // namespace
}  // namespace muster
