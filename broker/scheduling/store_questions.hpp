// Questions about stores of computed values: the scheduler knows who may ask for which store,
// others answer. Pure.
//
// A store's values are those of one seal: a secret of the user whose programs named the store. No
// node hears it. A worker speaks for the sessions whose tasks it has, and sees only stores that
// one of those named.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"
#include "broker/stores/store_claims.hpp"
#include "common/protocol/message.hpp"

namespace muster {

// What the one that answers has to know.
struct StoreEvent {
  StoreOrigin origin;
  std::optional<message::StoreRequest> request;  // nothing: this session or worker is gone
};

class StoreQuestions {
 public:
  StoreQuestions(Books& books, OutgoingMessages& out) : books_(books), out_(out) {}
  StoreQuestions(const StoreQuestions&) = delete;
  StoreQuestions& operator=(const StoreQuestions&) = delete;

  void ask(SessionRecord& session, message::StoreRequest&& request);
  void ask(WorkerIndex index, message::StoreRequest&& request);
  // The session has said what it has to say first.
  void set_named(SessionRecord& session);
  // Dropped while that peer is away: it asks again when it is back.
  void answer(const StoreOrigin& origin, message::StoreAnswer&& answer);
  void forget(const SessionRecord& session);
  void forget(WorkerIndex index);
  // A session has named its stores, or is no more.
  void review_early();
  // Questions that came since the last call, and the sessions and workers that are no more.
  std::vector<StoreEvent> take_events() { return std::exchange(events_, {}); }

 private:
  struct Access {
    std::string space;      // where the store's values stand; empty: none is named so here
    bool is_early = false;  // nor refused yet
    bool is_ambiguous = false;
  };
  struct EarlyQuestion {
    WorkerIndex worker = kNoWorker;
    message::StoreRequest request;
  };
  Access access(WorkerIndex index, const std::string& store) const;
  bool keep_early(WorkerIndex index, message::StoreRequest& request);
  void refuse(const StoreOrigin& origin, const message::StoreRequest& request, std::string why);

  Books& books_;
  OutgoingMessages& out_;
  std::vector<StoreEvent> events_;
  std::vector<EarlyQuestion> early_;  // of workers whose sessions are not back yet
};

}  // namespace muster
