// Answers what producers and workers ask of stores, on a thread of its own: files never keep the
// broker's loop waiting. The thread starts with the first question.
//
// Owner: main(). Threads: the loop's, for all functions. Blocking: the constructor and destructor,
// on files.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "broker/stores/store_claims.hpp"
#include "broker/stores/value_store.hpp"
#include "common/protocol/message.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

struct AddressedReply {
  StoreOrigin origin;
  message::StoreAnswer answer;
};

class StoreServer {
 public:
  // Takes the folder of `options` at once if it names one; throws std::runtime_error.
  explicit StoreServer(StoreOptions options);
  ~StoreServer();
  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

  void ask(const StoreOrigin& origin, message::StoreRequest&& request);
  // The session or worker is no more, and with it what it claims.
  void gone(const StoreOrigin& origin);
  std::vector<AddressedReply> take_answers();
  // Readable when there are answers.
  int descriptor() const { return bell_.get(); }
  // For STATUS.
  std::vector<std::pair<std::string, std::uint64_t>> counters() const;

 private:
  struct Question {
    StoreOrigin origin;
    message::StoreRequest request;
  };
  using Event = std::variant<Question, StoreOrigin>;  // an origin alone: it is gone

  // The thread's.
  void run();
  bool open_store();
  void handle(Question& question);
  void handle(const StoreOrigin& gone);
  void fail(const Event& event, const std::string& why);
  StoreReply found(const ValueName& name, bool& is_there);
  void claim(const Question& question, const ValueName& name);
  StoreReply put(const Question& question, const ValueName& name);
  std::string not_a_workers(const Question& question, const ValueName& name) const;
  std::string put_piece(const Question& question, const ValueName& name, bool& whole,
                        bool& changed);
  StoreReply answer_at_once(const Question& question, const ValueName& name);
  StoreReply yours() const;
  void await_room();
  bool too_many(const StoreOrigin& origin);
  void reply(const StoreOrigin& origin, std::uint64_t token, StoreReply&& reply);
  void go_on(const std::vector<StoreClaims::Wait>& waits);
  void publish_counters();

  StoreOptions options_;
  Descriptor bell_;
  std::string machine_;
  std::unique_ptr<ValueStore> store_;  // the thread's, once it runs
  std::string failure_;                // why there is no store
  StoreClaims claims_;
  std::map<std::pair<StoreAsker, ValueName>, std::unique_ptr<ValueStore::Upload>> uploads_;
  std::uint64_t hits_ = 0;
  std::uint64_t misses_ = 0;
  std::uint64_t failures_ = 0;  // questions that ended in an exception

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Event> events_;
  std::map<StoreOrigin, std::size_t>
      waiting_;  // questions in events_, and those just being answered
  std::vector<AddressedReply> answers_;
  std::uint64_t answer_bytes_ = 0;  // of the values in them
  std::vector<std::pair<std::string, std::uint64_t>> counters_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace muster
