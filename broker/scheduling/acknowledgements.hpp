// Tells workers that their outcomes have arrived, so that they may forget them. Pure.
//
// What goes to the same worker in the same turn costs next to nothing; alone it is two wake-ups. So
// an acknowledgement waits a little for tasks that go the same way.
#pragma once

#include <vector>

#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class Acknowledgements {
 public:
  Acknowledgements(Books& books, OutgoingMessages& out) : books_(books), out_(out) {}
  Acknowledgements(const Acknowledgements&) = delete;
  Acknowledgements& operator=(const Acknowledgements&) = delete;

  void add(WorkerIndex index, message::AcknowledgeLeases&& message, Time now);
  // Sends those that waited long enough, and those of workers that got tasks in this turn.
  void flush(Time now);
  // The worker is gone.
  void forget(WorkerIndex index) { std::erase(waiting_, index); }
  // When the oldest has waited long enough; kNever: none waits.
  Time next_deadline() const;

 private:
  Books& books_;
  OutgoingMessages& out_;
  std::vector<WorkerIndex> waiting_;  // workers with acknowledgements, oldest first
};

}  // namespace muster
