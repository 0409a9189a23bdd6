// What a session says about the nodes that the broker reaches by ssh.
#include <algorithm>
#include <utility>

#include "producer/session/session.hpp"

namespace muster {
namespace {

Message to_message(const NodeCommand& command) {
  return std::visit([](const auto& kind) { return Message(kind); }, command);
}

// Whether nothing that was said before matters after this command.
bool ends_all(const NodeCommand& command) {
  const auto* down = std::get_if<message::NodesDown>(&command);
  return down != nullptr && down->names.empty();
}

bool brings_up_the_same(const NodeCommand& left, const NodeCommand& right) {
  const auto* one = std::get_if<message::NodesUp>(&left);
  const auto* other = std::get_if<message::NodesUp>(&right);
  return one != nullptr && other != nullptr && one->hosts == other->hosts &&
         one->origin == other->origin;
}

}  // namespace

std::uint64_t Session::request_nodes(NodeCommand command) {
  const std::uint64_t number = ++last_node_call_;
  if (link_ == Link::up) {
    messages_.push_back(to_message(command));
    nodes_asked_.push_back(number);
  }
  node_calls_.push_back({number, std::move(command), false});
  return number;
}

void Session::forget_unanswered_nodes() {
  std::erase_if(node_calls_, [](const NodeCall& call) { return !call.answered; });
}

void Session::resume_nodes(bool new_incarnation) {
  nodes_asked_.clear();
  for (const NodeCall& call : node_calls_) {
    if (call.answered && !new_incarnation) continue;
    messages_.push_back(to_message(call.command));
    nodes_asked_.push_back(call.number);
  }
}

// The broker answers in the order in which it was asked.
void Session::on(message::NodesAnswer&& answer) {
  if (nodes_asked_.empty()) return;
  const std::uint64_t number = nodes_asked_.front();
  nodes_asked_.pop_front();
  const auto found = std::find_if(node_calls_.begin(), node_calls_.end(),
                                  [&](const NodeCall& call) { return call.number == number; });
  if (found == node_calls_.end()) return;  // forgotten
  const bool accepted = answer.error.empty();
  if (!std::exchange(found->answered, true)) {
    events_.nodes_answered.push_back({number, std::move(answer)});
  }
  if (!accepted) {
    node_calls_.erase(found);
  } else if (ends_all(found->command)) {
    node_calls_.erase(node_calls_.begin(), std::next(found));
  } else {
    const auto repeated = std::remove_if(node_calls_.begin(), found, [&](const NodeCall& call) {
      return brings_up_the_same(call.command, found->command);
    });
    node_calls_.erase(repeated, found);
  }
}

}  // namespace muster
