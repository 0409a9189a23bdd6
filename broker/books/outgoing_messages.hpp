// Collects the messages that the scheduler wants to send, in order. Pure.
#pragma once

#include <utility>
#include <vector>

#include "broker/books/job_table.hpp"
#include "broker/books/worker_table.hpp"
#include "common/protocol/message.hpp"

namespace muster {

class OutgoingMessages {
 public:
  void send(PeerId peer, Message&& message) { messages_.push_back({peer, std::move(message)}); }
  // Dropped while the worker is away.
  void send(const WorkerRecord& worker, Message&& message) {
    if (worker.present) send(worker.peer, std::move(message));
  }
  // Dropped while the producer is away or silent.
  void send(const SessionRecord& session, Message&& message) {
    if (session.present) send(session.peer, std::move(message));
  }
  std::vector<Outgoing> take() { return std::exchange(messages_, {}); }

 private:
  std::vector<Outgoing> messages_;
};

}  // namespace muster
