#include "worker/executors/store_relay.hpp"

#include <algorithm>
#include <string>

namespace muster {
namespace {

// So long may a broker be away; then tasks compute without a store.
constexpr Duration kPatience = std::chrono::seconds(30);

message::StoreRequest leave_request(std::uint64_t claimant) {
  message::StoreRequest request;
  request.claimant = claimant;
  request.question.operation = StoreOperation::leave;
  return request;
}

}  // namespace

StoreRelay::Runner StoreRelay::join(Answer answer) {
  runners_.emplace(++last_, std::move(answer));
  return last_;
}

void StoreRelay::leave(Runner runner) {
  if (runners_.erase(runner) == 0) return;
  std::erase_if(questions_, [&](const auto& entry) {
    if (entry.second.runner != runner) return false;
    if (!entry.second.is_sent) --unsent_;
    return true;
  });
  std::erase_if(claimants_, [&](const auto& entry) {
    if (entry.first.first != runner) return false;
    say_leave(entry.second);
    return true;
  });
}

void StoreRelay::say_leave(std::uint64_t claimant) {
  if (is_up_) leaving_.push_back(claimant);  // else a new connection says it of all
}

void StoreRelay::ask(Runner runner, message::StoreRequest&& request) {
  if (runners_.count(runner) == 0) return;
  const auto claimant = claimants_.find({runner, request.claimant});
  if (request.question.operation == StoreOperation::leave) {
    if (claimant == claimants_.end()) return;
    say_leave(claimant->second);
    claimants_.erase(claimant);
    return;
  }
  std::uint64_t ours = 0;
  if (claimant != claimants_.end()) {
    ours = claimant->second;
  } else {
    ours = claimants_[{runner, request.claimant}] = ++last_;
  }
  Question question{runner, request.token, std::move(request), false};
  question.request.token = ++last_;
  question.request.claimant = ours;
  questions_.emplace(question.request.token, std::move(question));
  ++unsent_;
}

std::vector<Message> StoreRelay::take_messages(bool is_up, Time now) {
  std::vector<Message> messages;
  if (is_up && !is_up_ && has_asked_) {
    messages.emplace_back(leave_request(0));
    for (auto& [token, question] : questions_) question.is_sent = false;
    unsent_ = questions_.size();
    leaving_.clear();
  }
  is_up_ = is_up;
  if (is_up || questions_.empty()) {
    waiting_since_ = kNever;
  } else {
    waiting_since_ = std::min(waiting_since_, now);
  }
  if (!is_up) {
    if (next_deadline() <= now) refuse_all();
    return messages;
  }
  for (const std::uint64_t claimant : leaving_) messages.emplace_back(leave_request(claimant));
  leaving_.clear();
  for (auto question = questions_.begin(); unsent_ > 0 && question != questions_.end();
       ++question) {
    if (question->second.is_sent) continue;
    question->second.is_sent = true;
    --unsent_;
    has_asked_ = true;
    messages.emplace_back(question->second.request);
  }
  return messages;
}

void StoreRelay::answer(message::StoreAnswer&& answer) {
  const auto found = questions_.find(answer.token);
  if (found == questions_.end()) return;
  answer.token = found->second.token;
  const Runner runner = found->second.runner;
  if (!found->second.is_sent) --unsent_;
  questions_.erase(found);
  const auto asker = runners_.find(runner);
  if (asker != runners_.end()) asker->second(std::move(answer));
}

void StoreRelay::refuse_all() {
  while (!questions_.empty()) {
    message::StoreAnswer refusal;
    refusal.token = questions_.begin()->first;
    refusal.reply.text = "this worker has no connection to the broker, which keeps the stores";
    answer(std::move(refusal));
  }
  waiting_since_ = kNever;
}

Time StoreRelay::next_deadline() const {
  return waiting_since_ == kNever ? kNever : waiting_since_ + kPatience;
}

}  // namespace muster
