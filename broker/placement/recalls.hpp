// Takes leases back that have not started, for slots that are idle. Part of placement, pure.
#pragma once

#include <cstdint>

#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"
#include "broker/placement/search.hpp"
#include "common/time.hpp"

namespace muster {

class Recalls {
 public:
  Recalls(Books& books, OutgoingMessages& out, Search& search)
      : books_(books), out_(out), search_(search) {}
  Recalls(const Recalls&) = delete;
  Recalls& operator=(const Recalls&) = delete;

  // At the tail of a job, idle slots take over leases that have not started elsewhere.
  void recall_unstarted(Time now);
  // Takes the newest leases of one job from a worker. `taker`: for whom, if that is known: it then
  // must have their blobs, or the time that they would wait must be worth fetching these.
  void recall_from(WorkerIndex index, WorkerIndex taker, std::uint32_t count, Time now);

 private:
  void recall_waiting(Time now);
  void recall_waiting(WorkerIndex index, Time now);
  Duration transfer_time(const JobRecord& job, const TaskRecord& task, WorkerIndex index) const;
  void send_recall(WorkerIndex index, message::Recall&& recall, Time now);

  Books& books_;
  OutgoingMessages& out_;
  Search& search_;
  WorkerIndex next_giver_ = 0;  // of the workers with leases that wait, who is looked at next
};

}  // namespace muster
