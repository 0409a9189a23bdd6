// What a session asks of stores of computed values: questions without answer, and the stores that
// its tasks may use. Owned by the session. Pure; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

// With `messages` null nothing is said: there is no connection, resume() will say it.
class AskedStores {
 public:
  // Tasks may use that store from now on, and see its values of this seal.
  void name(const std::string& store, const std::string& seal, std::vector<Message>* messages);
  bool names(const std::string& store) const { return stores_.count(store) != 0; }
  // Returns the question's number.
  std::uint64_t ask(std::uint64_t claimant, StoreQuestion question, std::vector<Message>* messages);
  // Nobody waits for these answers any more.
  void forget() { questions_.clear(); }
  // Whether it is the answer to a question, which is over then.
  bool is_answer(const message::StoreAnswer& answer) { return questions_.erase(answer.token) != 0; }

  // After a WELCOME. The names go before anything else: workers ask for tasks of this session, and
  // a new broker knows no stores.
  void resume_names(std::vector<Message>& messages);
  void resume(std::vector<Message>& messages);

 private:
  void say_name(const std::string& store, const std::string& seal, std::vector<Message>& messages);

  std::map<std::uint64_t, message::StoreRequest> questions_;  // without answer
  std::map<std::string, std::string> stores_;                 // by name: the seal
  std::uint64_t last_ = 0;
};

}  // namespace muster
