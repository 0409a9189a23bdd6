// The blobs that a session has told the broker of, or is about to: where they are, before the
// messages that name them, and that it needs them no longer. Owned by the session. Pure; one
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

class ToldBlobs {
 public:
  // Says where a blob is, once per connection until it is released. A second time: the broker
  // missed it.
  void put(BlobSource source);
  // False: no broker was ever told of it.
  bool release(const BlobId& id);
  // The blobs of these outcomes are the session's until it releases them.
  void keep_of(const std::vector<Outcome>& outcomes);
  // Appends the answers that concern a blob of the session.
  void hear(message::BlobAnswers&& answers, std::vector<BlobAnswer>& heard);
  // The broker has answered the heartbeat with this token.
  void confirm_releases(std::uint64_t token);

  // After a WELCOME: a broker that is new forgot who needs what; this one may have missed what was
  // said last.
  void resume(bool new_incarnation);
  // Releases first: they free the credit that the rest uses.
  void talk(std::vector<Message>& messages);
  bool has_talk() const { return !puts_.empty() || !releases_.empty(); }
  bool has_releases() const { return !releases_.empty(); }
  // The broker may miss some: no tasks are sent.
  bool in_doubt() const { return in_doubt_ > 0; }

  void check_invariants() const;

 private:
  struct Held {
    BlobSource source;
    bool adopted = false;   // the broker has it: asked for as `kept` from now on
    bool said = false;      // on any link
    bool waiting = false;   // in puts_
    bool in_doubt = false;  // asked for after a WELCOME; no answer yet
  };
  std::unordered_map<BlobId, Held> blobs_;  // put, or of an outcome, and not released
  std::vector<BlobId> puts_;                // to be said
  std::vector<BlobId> releases_;            // to be said
  std::vector<BlobId> released_;     // said; repeated when the link breaks before the broker ...
  std::size_t released_asked_ = 0;   // ... answers a heartbeat that followed so many of them
  std::uint64_t release_token_ = 0;  // of that heartbeat, if one is under way
  std::uint64_t last_release_token_ = 0;
  std::size_t in_doubt_ = 0;
};

}  // namespace muster
