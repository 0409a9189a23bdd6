// Decides which task is leased to which worker, and how many ahead. Pure.
//
// Owner: the scheduler. How many leases a worker may have: policy.hpp. Which worker: search.hpp.
// Cost: O(1) per task, O(log jobs) per batch of leases, independent of the number of workers.
#pragma once

#include <cstdint>

#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"
#include "broker/placement/recalls.hpp"
#include "broker/placement/search.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class Placement {
 public:
  Placement(Books& books, OutgoingMessages& out) : books_(books), out_(out) {}
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;

  // Leases what can be leased, and takes back what idle slots can start sooner.
  void dispatch(Time now);
  // Now and then: what nobody notices when it happens (a round trip that was learned, time that
  // passed) may make a difference to jobs that wait.
  void review(Time now);

 private:
  void lease_last_chances(Time now);
  bool lease_to_ready(Time now);
  void review_classes();
  void review_drained(Time now);
  bool place(JobRecord& job, Time now);
  bool place_last_chance(JobRecord& job, Time now);
  bool lease_batch(JobRecord& job, const Choice& choice, std::uint64_t count, bool last_chance,
                   Time now);
  void lease(JobRecord& job, WorkerIndex index, std::uint64_t sequence, TaskRecord& task,
             Books::LeaseHint hint, std::uint64_t expected, message::Tasks& tasks);
  void send_tasks(JobRecord& job, WorkerIndex index, message::Tasks&& tasks);
  void note_blocked(Demand& demand, Time now);
  void note_placed(Demand& demand, WorkerIndex index, Time now);
  void reserve(Demand& demand, Time now);

  Books& books_;
  OutgoingMessages& out_;
  Search search_{books_};
  Recalls recalls_{books_, out_, search_};
  std::uint64_t classes_seen_ = 0;
};

}  // namespace muster
