// Workers that are kept free: one for tasks on their last permitted run, which so take no others
// along, and one for a demand whose tasks found no room for long. Pure.
#pragma once

#include "broker/books/job_groups.hpp"
#include "broker/books/worker_table.hpp"
#include "common/time.hpp"

namespace muster {

class Reservations {
 public:
  explicit Reservations(WorkerTable& workers) : workers_(workers) {}
  Reservations(const Reservations&) = delete;
  Reservations& operator=(const Reservations&) = delete;

  // --- For tasks on their last permitted run
  WorkerIndex last_chance() const { return last_chance_; }  // kNoWorker: none
  void reserve_last_chance(WorkerIndex index);
  void release_last_chance();

  // --- For a demand: the worker gets no other leases until a task of it fits
  WorkerIndex drained() const { return drained_.worker; }  // kNoWorker: none
  const Demand* demand() const { return drained_.demand; }
  bool is_drained_for(const Demand& demand) const { return drained_.demand == &demand; }
  void drain(WorkerIndex index, const Demand& demand);
  // A task of the demand found room there: the worker is kept until then. The first one counts.
  void keep_drained(Time until);
  bool is_over(Time now) const { return now >= drained_.until; }
  void release_drained();

  // A lost worker is kept for nobody.
  void forget(WorkerIndex index);
  // Nobody has this demand any more.
  void forget(const Demand* demand);

 private:
  struct Drained {
    WorkerIndex worker = kNoWorker;
    const Demand* demand = nullptr;
    Time until = kNever;  // it is kept so long after the first task found room
  };
  void set_reserved(WorkerIndex index, bool reserved);

  WorkerTable& workers_;
  WorkerIndex last_chance_ = kNoWorker;
  Drained drained_;
};

}  // namespace muster
