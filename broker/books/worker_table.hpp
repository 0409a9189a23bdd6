// What the broker knows of workers, and how it finds the least loaded one. Part of the scheduler,
// pure.
//
// Workers that offer the same functions, interpreter and labels form a *class*; a class keeps its
// workers in levels of relative load, so that finding, raising or lowering one is O(1) however many
// there are.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "broker/books/job_table.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

struct LeaseRun {  // contiguous leases of one job and attempt, at most limits::kBatchTasks
  JobKey job{};
  std::uint64_t first = 0;
  std::uint32_t count = 0;
  Attempt attempt{};
};

struct WorkerRecord {
  PeerId peer{};
  bool present = true;  // connected; away it keeps its leases until it counts as lost
  bool draining = false;
  bool paused = false;  // `pause_reason` says why
  std::uint32_t stuck_slots = 0;
  std::uint32_t leases = 0;        // open, started or not
  std::uint32_t short_leases = 0;  // of those, tasks that are done in a moment
  std::size_t lease_bytes = 0;     // payload bytes of those
  std::uint64_t early_bytes = 0;   // of its outcomes that are kept for producers who are not back
  std::uint64_t extra_slots = 0;   // what wide leases take beyond one slot each
  std::uint64_t gpus_taken = 0;
  std::uint32_t fetching = 0;  // of the leases, those whose blobs it lacked when it got them
  std::uint32_t waiting = 0;   // leases that wait for blobs, by its own word
  std::deque<LeaseRun> order;  // as leased, oldest first; closed ones are dropped lazily
  Duration round_trip{0};      // learned; 0: unknown
  Time last_heard{0};
  Time last_sent{0};
  Time recall_until = Time::min();  // no second recall before
  bool reserved = false;            // gets no leases: it is or will be the only home of one task
  std::vector<message::AcknowledgeLeases> acknowledgements;  // not said yet
  Time acknowledgements_since{0};
  std::uint64_t told_in_turn = 0;  // the scheduler's turn in which it last got tasks
  std::uint64_t tasks_done = 0;

  void append_lease(JobKey job, std::uint64_t sequence, Attempt attempt) {
    if (!order.empty()) {
      LeaseRun& last = order.back();
      if (last.job == job && last.attempt == attempt && last.count < limits::kBatchTasks &&
          last.first + last.count == sequence) {
        ++last.count;
        return;
      }
    }
    order.push_back({job, sequence, 1, attempt});
  }
  std::uint32_t usable_slots() const {
    return hello.slots > stuck_slots ? hello.slots - stuck_slots : 0;
  }
  // Leases that wait for blobs: they take no slot meanwhile. Its word counts only for those that it
  // fetches for, so that nobody gets leases without end for a claim.
  std::uint32_t idle_leases() const { return std::min(waiting, fetching); }
  // Slots that its leases take, or will when they start: for tasks that can start there at once …
  std::uint64_t load() const { return leases + extra_slots - idle_leases(); }
  // … and for those that wait as well, for blobs.
  std::uint64_t full_load() const { return leases + extra_slots; }
  bool takes_leases() const { return present && !draining && !paused; }

  // --- Owned by WorkerTable ---
  std::uint32_t class_index = 0;
  std::uint32_t class_place = 0;  // in the class's members
  bool offers_slots = false;      // counted in pool(): it is connected and takes leases
  bool shares = false;            // it uses the broker's folders: it has every blob

  std::string user;            // as the authenticator or the system says; empty: the broker's own
  std::uint64_t number = 0;    // how people know it
  message::HelloWorker hello;  // as announced; `held` is emptied. Last: rarely read
  std::string pause_reason;
  std::set<BlobId> blobs;  // in its cache, by its own word; empty when it shares
};

// Names that are remembered of a worker's cache: 4 GiB in the smallest blobs. Of others the broker
// believes that they are not there, which costs the worker nothing but a place in line.
inline constexpr std::size_t kMaxWorkerBlobs = 65'536;
// Of the blobs that the task and its job's body name, what the worker lacks; 0: the task can start
// there.
std::uint64_t missing_bytes(const JobRecord& job, const TaskRecord& task,
                            const WorkerRecord& worker);
bool lacks_blobs(const JobRecord& job, const TaskRecord& task, const WorkerRecord& worker);

// Levels of relative load: below kFullLevel a slot is idle, from it on all slots have work.
inline constexpr std::int32_t kFullLevel = 32;
inline constexpr std::int32_t kLevels = 64;

struct WorkerClass {
  bool runs_commands = false;
  std::string python;                  // "3.11"; empty: none
  std::vector<std::string> functions;  // sorted
  std::vector<std::string> labels;     // sorted
  std::uint32_t workers = 0;
  std::uint64_t slots = 0;            // of all its workers
  std::vector<WorkerIndex> members;   // those workers
  std::uint32_t cursor = 0;           // whom a search among them looks at next
  bool is_roomier = false;            // a worker of it has more room than before …
  std::uint64_t free_slots = 0;       // … the roomiest of those so many
  std::uint64_t occupied_levels = 0;  // bit per level
  std::array<WorkerIndex, kLevels> heads = [] {
    std::array<WorkerIndex, kLevels> none{};
    none.fill(kNoWorker);
    return none;
  }();

  bool offers(const Function& function) const;
  bool offers(const JobSpec& spec) const;  // and has its labels
};

// A class with workers that have more room than before.
struct RoomierClass {
  std::uint32_t index = 0;
  std::uint64_t free_slots = 0;  // of the roomiest of those
};

class WorkerTable {
 public:
  WorkerIndex add(message::HelloWorker hello);
  void remove(WorkerIndex index);
  WorkerRecord& at(WorkerIndex index) { return *workers_[index]; }
  const WorkerRecord& at(WorkerIndex index) const { return *workers_[index]; }
  // kNoWorker when no such worker is connected.
  WorkerIndex find(const WorkerId& id) const;

  // Call after any change of leases, waiting, stuck_slots, present, draining, paused or reserved.
  void update_level(WorkerIndex index);

  // The worker may have more room than before; update_level() notices that only where its level
  // falls.
  void note_room(WorkerIndex index);
  // Classes with such workers since the last call.
  std::vector<RoomierClass> take_roomier();

  // Changes whenever a class appears or empties: cached class lists are then stale.
  std::uint64_t generation() const { return generation_; }
  const std::vector<WorkerClass>& classes() const { return classes_; }
  // The worker's level of relative load; -1: it takes no leases.
  std::int32_t level(WorkerIndex index) const { return links_[index].level; }
  // The least loaded worker of the class that takes leases; kNoWorker: none does.
  WorkerIndex least_loaded(std::uint32_t class_index) const;
  WorkerIndex most_loaded(std::uint32_t class_index) const;
  // The level that a worker would have with this load.
  std::int32_t level_with(WorkerIndex index, std::uint64_t load) const;
  // Goes round the workers of a class, which is not empty, one with each call …
  WorkerIndex next_member(std::uint32_t class_index);
  // … and on from this one.
  void look_at_next(WorkerIndex index);
  void set_shares(WorkerIndex index, bool shares);
  bool all_share() const { return sharing_ == size_; }
  bool has_idle_slot() const;

  std::uint32_t size() const { return size_; }
  // The workers that are connected and not draining, paused ones too, and their slots.
  const message::Pool& pool() const { return pool_; }
  template <typename Visit>  // visit(WorkerIndex, WorkerRecord&), in index order
  void each(Visit&& visit) {
    for (WorkerIndex index = 0; index < workers_.size(); ++index) {
      if (workers_[index]) visit(index, *workers_[index]);
    }
  }
  template <typename Visit>  // visit(WorkerIndex, const WorkerRecord&), in index order
  void each(Visit&& visit) const {
    for (WorkerIndex index = 0; index < workers_.size(); ++index) {
      if (workers_[index]) visit(index, std::as_const(*workers_[index]));
    }
  }

 private:
  std::uint32_t class_of(const message::HelloWorker& hello);
  // A worker's place in its level. Apart from the records, so that the neighbours whose links
  // change are in the cache.
  struct Link {
    std::int32_t level = -1;
    WorkerIndex previous = kNoWorker;
    WorkerIndex next = kNoWorker;
  };
  void count(WorkerRecord& worker, bool offers_slots);
  void unlink(WorkerIndex index);
  void link(WorkerIndex index, std::int32_t level);

  std::vector<std::unique_ptr<WorkerRecord>> workers_;
  std::vector<Link> links_;  // one per place in workers_
  std::vector<WorkerIndex> free_;
  std::unordered_map<WorkerId, WorkerIndex> by_id_;
  std::vector<WorkerClass> classes_;
  std::vector<std::uint32_t> roomier_;  // classes
  std::uint64_t generation_ = 1;
  std::uint32_t size_ = 0;
  std::uint32_t sharing_ = 0;
  message::Pool pool_;
};

}  // namespace muster
