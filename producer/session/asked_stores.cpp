#include "producer/session/asked_stores.hpp"

#include <utility>

namespace muster {

void AskedStores::name(const std::string& store, const std::string& seal,
                       std::vector<Message>* messages) {
  if (stores_.emplace(store, seal).second && messages != nullptr) {
    say_name(store, seal, *messages);
  }
}

// Its answer says nothing, and finds no question.
void AskedStores::say_name(const std::string& store, const std::string& seal,
                           std::vector<Message>& messages) {
  message::StoreRequest request;
  request.token = ++last_;
  request.claimant = 1;
  request.question.operation = StoreOperation::contains;
  request.question.store = store;
  request.question.text = seal;
  messages.emplace_back(std::move(request));
}

std::uint64_t AskedStores::ask(std::uint64_t claimant, StoreQuestion question,
                               std::vector<Message>* messages) {
  message::StoreRequest request{++last_, claimant, std::move(question)};
  if (messages != nullptr) messages->emplace_back(request);
  // A new connection says of all claims that they have ended.
  if (request.question.operation != StoreOperation::leave) {
    questions_.emplace(last_, std::move(request));
  }
  return last_;
}

void AskedStores::resume_names(std::vector<Message>& messages) {
  for (const auto& [store, seal] : stores_) say_name(store, seal, messages);
}

// What was said on the old connection may be lost: claims begin anew.
void AskedStores::resume(std::vector<Message>& messages) {
  if (last_ == 0) return;
  message::StoreRequest leave;
  leave.question.operation = StoreOperation::leave;
  messages.emplace_back(std::move(leave));
  for (const auto& [number, request] : questions_) messages.emplace_back(request);
}

}  // namespace muster
