// Where jobs may run, and the groups in which those wait that need the same kind of worker. Pure.
//
// Jobs with the same function, interpreter and labels share a list of worker classes; those that
// also ask for the same resources share a *demand*, with a list of the workers where a task fits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "broker/books/job_table.hpp"
#include "broker/books/run_queue.hpp"
#include "broker/books/worker_table.hpp"
#include "common/time.hpp"

namespace muster {

// The classes that offer what a job needs, by what decides about that.
struct ClassCache {
  std::uint64_t jobs = 0;  // that use it
  WaitGroup plain;         // those of its jobs that found no room, …
  WaitGroup near{.users = {},
                 .differs = true};  // … and those that do not like every worker as much
  std::uint64_t generation = 0;
  std::vector<std::uint32_t> classes;
};

// Jobs that ask for the same resources of the same workers, and the workers where a task of theirs
// fits when nothing else runs there.
struct Demand {
  struct Candidate {
    WorkerIndex worker = kNoWorker;
    std::uint32_t width = 1;  // slots that a task takes there
  };
  Resources wanted;
  std::vector<Candidate> candidates;
  std::size_t cursor = 0;  // where the next search begins
  std::uint32_t jobs = 0;
  WaitGroup waiting;                 // those of them that found no room
  std::uint64_t failed_in_turn = 0;  // the scheduler's turn in which no worker had room
  Time blocked_since = kNever;       // since when none of its tasks found room
};

class JobGroups {
 public:
  JobGroups(WorkerTable& workers, RunQueue& queue) : workers_(workers), queue_(queue) {}
  JobGroups(const JobGroups&) = delete;
  JobGroups& operator=(const JobGroups&) = delete;

  // Call once, when the job's specification is known.
  void add(JobRecord& job);
  // The job is forgotten, and waits nowhere. Returns the demand that nobody has any more; it is
  // only good for comparisons. Null: there is none.
  const Demand* remove(JobRecord& job);
  // A new worker …
  void add(WorkerIndex index);
  // … and one that is gone.
  void remove(WorkerIndex index);

  // The classes of workers that offer what the job's tasks need.
  const std::vector<std::uint32_t>& eligible_classes(JobRecord& job);
  // Whether its tasks can run there at all, however busy the worker is.
  bool may_run(JobRecord& job, WorkerIndex index);

  // Where the job waits when it finds no room. `is_held`: its session leases nothing yet.
  WaitGroup& wait_group(JobRecord& job, bool is_held);
  WaitGroup& held() { return held_; }
  const WaitGroup& held() const { return held_; }
  template <typename Visit>  // visit(WaitGroup&) for all but held()
  void each_group(Visit&& visit) {
    for (auto& [key, cache] : class_cache_) {
      visit(cache.plain);
      visit(cache.near);
    }
    for (auto& [key, demand] : demands_) visit(demand.waiting);
  }
  template <typename Visit>  // visit(const ClassCache&)
  void each_class_cache(Visit&& visit) const {
    for (const auto& [key, cache] : class_cache_) visit(cache);
  }
  template <typename Visit>  // visit(const Demand&)
  void each_demand(Visit&& visit) const {
    for (const auto& [key, demand] : demands_) visit(demand);
  }

 private:
  // What decides where a job runs: its kind, whether it brings its native function along, that
  // function's name if it does not or a python function's interpreter, and its labels.
  using ClassKey = std::tuple<FunctionKind, bool, std::string, std::vector<std::string>>;
  // … and what its tasks take: processor thousandths, memory, accelerators.
  using DemandKey = std::tuple<ClassKey, std::uint32_t, std::uint64_t, std::uint32_t>;
  void add_candidate(Demand& demand, WorkerIndex index);
  static ClassKey class_key(const JobSpec& spec);
  static DemandKey demand_key(const JobSpec& spec);

  WorkerTable& workers_;
  RunQueue& queue_;
  WaitGroup held_;  // jobs of sessions that lease nothing yet
  // An entry lives as long as a job uses it: its names and labels are chosen by clients.
  std::map<ClassKey, ClassCache> class_cache_;
  std::map<DemandKey, Demand> demands_;
};

}  // namespace muster
