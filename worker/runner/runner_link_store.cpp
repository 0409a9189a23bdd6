// What tasks ask of stores of computed values, over the runner's link.
#include <algorithm>
#include <utility>

#include "common/net/store_future.hpp"
#include "worker/runner/runner_link_state.hpp"

namespace muster {
namespace {

std::future<StoreReply> refused(const char* why) {
  std::promise<StoreReply> promise;
  StoreReply reply;
  reply.text = why;
  promise.set_value(std::move(reply));
  return promise.get_future();
}

}  // namespace

std::future<StoreReply> RunnerLink::State::ask(std::uint64_t task_id, std::uint64_t claimant,
                                               StoreQuestion&& question) {
  if (abandoned_) return refused("a process that a task has forked has no link to the stores");
  message::StoreRequest request{0, claimant, std::move(question)};
  const bool is_last_word = request.question.operation == StoreOperation::leave;
  std::future<StoreReply> reply;
  {
    const std::lock_guard lock(mutex_);
    const bool runs = std::any_of(started_.begin(), started_.end(),
                                  [&](const HeldTask& task) { return task.id == task_id; });
    if (request.question.operation == StoreOperation::claim) {
      if (!runs) return refused("only a task that runs may claim a value");
      auto& claimants = claimants_[task_id];
      if (std::find(claimants.begin(), claimants.end(), claimant) == claimants.end()) {
        claimants.push_back(claimant);
      }
    }
    request.token = ++last_question_;
    if (!is_last_word) reply = questions_[request.token].get_future();
  }
  write(std::move(request));
  background_.notify_one();
  return is_last_word ? refused("") : std::move(reply);
}

// The task ends: so do its claims.
void RunnerLink::State::leave_stores(std::uint64_t task_id) {
  std::vector<std::uint64_t> claimants;
  {
    const std::lock_guard lock(mutex_);
    const auto found = claimants_.find(task_id);
    if (found == claimants_.end()) return;
    claimants = std::move(found->second);
    claimants_.erase(found);
  }
  for (const std::uint64_t claimant : claimants) {
    message::StoreRequest request;
    request.claimant = claimant;
    request.question.operation = StoreOperation::leave;
    write(std::move(request));
  }
}

void RunnerLink::State::take_answer(message::StoreAnswer&& answer) {
  std::promise<StoreReply> promise;
  {
    const std::lock_guard lock(mutex_);
    const auto found = questions_.find(answer.token);
    if (found == questions_.end()) return;
    promise = std::move(found->second);
    questions_.erase(found);
  }
  promise.set_value(std::move(answer.reply));
}

std::unique_ptr<PendingReply> RunnerLink::ask(std::uint64_t task_id, std::uint64_t claimant,
                                              StoreQuestion question) {
  return std::make_unique<FutureReply>(state_->ask(task_id, claimant, std::move(question)));
}

}  // namespace muster
