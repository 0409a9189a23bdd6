#include "producer/session/node_calls.hpp"

#include <algorithm>
#include <utility>

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

std::uint64_t NodeCalls::request(NodeCommand command, std::vector<Message>* messages) {
  const std::uint64_t number = ++last_;
  if (messages != nullptr) {
    messages->push_back(to_message(command));
    asked_.push_back(number);
  }
  calls_.push_back({number, std::move(command), false});
  return number;
}

void NodeCalls::forget_unanswered() {
  std::erase_if(calls_, [](const Call& call) { return !call.answered; });
}

void NodeCalls::resume(bool new_incarnation, std::vector<Message>& messages) {
  asked_.clear();
  for (const Call& call : calls_) {
    if (call.answered && !new_incarnation) continue;
    messages.push_back(to_message(call.command));
    asked_.push_back(call.number);
  }
}

std::optional<NodesAnswered> NodeCalls::answered(message::NodesAnswer&& answer) {
  if (asked_.empty()) return std::nullopt;
  const std::uint64_t number = asked_.front();
  asked_.pop_front();
  const auto found = std::find_if(calls_.begin(), calls_.end(),
                                  [&](const Call& call) { return call.number == number; });
  if (found == calls_.end()) return std::nullopt;  // forgotten
  const bool accepted = answer.error.empty();
  std::optional<NodesAnswered> news;
  if (!std::exchange(found->answered, true)) news = NodesAnswered{number, std::move(answer)};
  if (!accepted) {
    calls_.erase(found);
  } else if (ends_all(found->command)) {
    calls_.erase(calls_.begin(), std::next(found));
  } else {
    const auto repeated = std::remove_if(calls_.begin(), found, [&](const Call& call) {
      return brings_up_the_same(call.command, found->command);
    });
    calls_.erase(repeated, found);
  }
  return news;
}

}  // namespace muster
