// What a session has asked about the nodes that the broker reaches by ssh: what has no answer, and
// what was accepted and is said again to a new broker. Owned by the session. Pure; one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <variant>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

// What the broker is to do about the nodes that it reaches by ssh.
using NodeCommand = std::variant<message::NodesUp, message::NodesDown>;

struct NodesAnswered {
  std::uint64_t number = 0;  // as NodeCalls::request() returned it
  message::NodesAnswer answer;
};

class NodeCalls {
 public:
  // A new command, said at once if `messages` is not null. Returns its number.
  std::uint64_t request(NodeCommand command, std::vector<Message>* messages);
  // Nobody waits for these answers any more: commands without one are not said again.
  void forget_unanswered();
  // After a WELCOME: says again what this broker has not answered, and to a new one all that its
  // predecessor accepted, in the same order.
  void resume(bool new_incarnation, std::vector<Message>& messages);
  // The broker answers in the order in which it was asked. Nothing: nobody waits for this answer.
  std::optional<NodesAnswered> answered(message::NodesAnswer&& answer);

 private:
  struct Call {
    std::uint64_t number = 0;
    NodeCommand command;
    bool answered = false;
  };
  std::vector<Call> calls_;          // without answer, or in effect; oldest first
  std::deque<std::uint64_t> asked_;  // said on this connection, without answer; in order
  std::uint64_t last_ = 0;
};

}  // namespace muster
