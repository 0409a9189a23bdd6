// What a session asks of stores of computed values.
#include <utility>

#include "producer/session/session.hpp"

namespace muster {

void Session::name_store(const std::string& store, const std::string& seal) {
  if (!stores_.emplace(store, seal).second || link_ != Link::up) return;
  say_store(store, seal);
}

bool Session::names_store(const std::string& store) const { return stores_.count(store) != 0; }

// Its answer says nothing, and finds no question.
void Session::say_store(const std::string& store, const std::string& seal) {
  message::StoreRequest request;
  request.token = ++last_question_;
  request.claimant = 1;
  request.question.operation = StoreOperation::contains;
  request.question.store = store;
  request.question.text = seal;
  messages_.emplace_back(std::move(request));
}

std::uint64_t Session::ask_store(std::uint64_t claimant, StoreQuestion question) {
  message::StoreRequest request{++last_question_, claimant, std::move(question)};
  if (link_ == Link::up) messages_.emplace_back(request);
  // A new connection says of all claims that they have ended.
  if (request.question.operation != StoreOperation::leave) {
    questions_.emplace(last_question_, std::move(request));
  }
  return last_question_;
}

// Before anything else: workers ask for tasks of this session, and a new broker knows no stores.
void Session::resume_store_names() {
  for (const auto& [store, seal] : stores_) say_store(store, seal);
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
