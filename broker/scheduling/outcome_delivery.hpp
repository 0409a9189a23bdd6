// Tells producers how their tasks ended, and why their jobs wait. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"

namespace muster {

class OutcomeDelivery {
 public:
  OutcomeDelivery(Books& books, OutgoingMessages& out) : books_(books), out_(out) {}
  OutcomeDelivery(const OutcomeDelivery&) = delete;
  OutcomeDelivery& operator=(const OutcomeDelivery&) = delete;

  // This task has ended: flush() tells its producer.
  void add(JobRecord& job, std::uint64_t sequence);
  // The producer is back: it is told all that it has not acknowledged.
  void resend(JobRecord& job);
  void flush();
  // Why the job waits; empty: it no longer does. Said once.
  void notice(JobRecord& job, std::string text);

 private:
  void flush(JobRecord& job);

  Books& books_;
  OutgoingMessages& out_;
  std::vector<JobKey> ready_jobs_;  // with tasks that have ended since the last flush()
};

}  // namespace muster
