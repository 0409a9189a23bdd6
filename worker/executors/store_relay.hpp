// Carries what runners ask of stores to the broker and the answers back: the daemon's own tokens
// and claimants stand for theirs, and what a runner claims ends with it.
//
// A new connection begins with the end of all claims of this worker: what was said in the old one
// may be lost. Then what has no answer is asked again.
//
// Owner: main(); it outlives the executors. Threads: the loop's. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class StoreRelay {
 public:
  using Answer = std::function<void(message::StoreAnswer&&)>;
  using Runner = std::uint64_t;

  // A runner starts; `answer` is called until it leaves.
  Runner join(Answer answer);
  void leave(Runner runner);
  void ask(Runner runner, message::StoreRequest&& request);

  // What the broker is to be told. `is_up`: it said WELCOME on this connection.
  std::vector<Message> take_messages(bool is_up, Time now);
  void answer(message::StoreAnswer&& answer);
  Time next_deadline() const;

 private:
  struct Question {
    Runner runner = 0;
    std::uint64_t token = 0;  // the runner's
    message::StoreRequest request;
    bool is_sent = false;
  };
  void refuse_all();
  void say_leave(std::uint64_t claimant);

  std::map<Runner, Answer> runners_;
  std::map<std::pair<Runner, std::uint64_t>, std::uint64_t> claimants_;  // to ours
  std::map<std::uint64_t, Question> questions_;                          // by our token
  std::vector<std::uint64_t> leaving_;                                   // our claimants
  std::uint64_t last_ = 0;
  std::size_t unsent_ = 0;
  bool is_up_ = false;
  bool has_asked_ = false;
  Time waiting_since_ = kNever;  // the link is down, and questions wait
};

}  // namespace muster
