// What the broker sends to producers and workers, bounded in bytes by what each has read.
//
// ZeroMQ does not say how much of what was sent waits for its reader, and bounds it in messages. So
// a mark goes along now and then: a HEARTBEAT that wants an answer, which comes when everything
// before it was read. Beyond a window of unread bytes messages wait here, where they share their
// payloads with the tables of the scheduler; beyond a limit of what waits the peer counts as one
// that does not read. A peer that reads never notices.
//
// Owner: BrokerLoop. Threads: the loop's.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/net/transport.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

// A token for a HEARTBEAT that cannot be guessed: a peer that sends it back has read it. Never 0.
std::uint64_t new_mark();

class Outbox {
 public:
  explicit Outbox(Router& router);  // outlives this
  ~Outbox();
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  // Sends now or when the peer has read. `full`: it does not read, and nothing more is sent to it
  // until it has read what it was sent.
  SendResult send(PeerId peer, Message&& message, Time now);
  // Whether this was the answer to a mark. What waited for it leaves.
  bool heard(PeerId peer, const message::Heartbeat& beat, Time now);
  // Whether the peer may be answered a STATUS_REQUEST now: it has read the last STATUS. Otherwise
  // the request is remembered, and take_due_requests() names the peer when it is due.
  bool may_have_status(PeerId peer);
  std::vector<PeerId> take_due_requests();
  // Connections that turned out to be gone, or whose peer has read nothing for a minute while
  // messages waited. Call now and then; they are forgotten.
  std::vector<std::pair<PeerId, SendResult>> take_lost(Time now);

  std::uint64_t unread_bytes() const { return unread_bytes_; }  // of all peers, with what waits

 private:
  struct Peer {
    std::uint64_t unread = 0;      // bytes given to ZeroMQ since the last mark that came back ...
    std::uint64_t since_mark = 0;  // … of those, since the last mark that was sent
    std::uint64_t mark = 0;        // what is to come back; 0: nothing
    Time moved{0};                 // when a mark came back, or the first was sent, last
    std::deque<Message> waiting;
    std::uint64_t waiting_bytes = 0;
    bool is_full = false;
    bool status_asked = false;       // a STATUS is about to be sent
    bool status_sent = false;        // and not known to be read …
    bool status_since_mark = false;  // … sent after the mark
    std::uint32_t status_requests = 0;
  };

  std::uint64_t window() const;
  std::uint64_t most_waiting() const;
  SendResult pass(PeerId id, Peer& peer, const Message& message, Time now);
  void mark(PeerId id, Peer& peer, Time now);
  void wait(Peer& peer, Message&& message);
  void drop_waiting(Peer& peer);
  bool go_on(PeerId id, Peer& peer, Time now);
  void forget(PeerId id);

  Router& router_;
  std::unordered_map<PeerId, Peer> peers_;
  std::vector<PeerId> due_requests_;
  std::vector<std::pair<PeerId, SendResult>> lost_;
  std::uint64_t unread_bytes_ = 0;
  Time next_review_{0};
};

}  // namespace muster
