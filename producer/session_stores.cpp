// What a session asks of stores of computed values.
#include <utility>

#include "producer/session.hpp"

namespace muster {

std::uint64_t Session::ask_store(std::uint64_t claimant, StoreQuestion question) {
  message::StoreRequest request{++last_question_, claimant, std::move(question)};
  if (link_ == Link::up) messages_.emplace_back(request);
  // A new connection says of all claims that they have ended.
  if (request.question.operation != StoreOperation::leave) {
    questions_.emplace(last_question_, std::move(request));
  }
  return last_question_;
}

// What was said on the old connection may be lost: claims begin anew.
void Session::resume_stores() {
  if (last_question_ == 0) return;
  message::StoreRequest leave;
  leave.question.operation = StoreOperation::leave;
  messages_.emplace_back(std::move(leave));
  for (const auto& [number, request] : questions_) messages_.emplace_back(request);
}

void Session::on(message::StoreAnswer&& answer) {
  if (questions_.erase(answer.token) == 0) return;
  events_.store_answers.push_back(std::move(answer));
}

}  // namespace muster
