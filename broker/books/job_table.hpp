// What the broker knows of jobs and their tasks. Part of the scheduler, pure.
//
// A Job holds its tasks in a window indexed by sequence: from the oldest that the producer has not
// acknowledged to the newest submitted. Every operation on one task is O(1); only tasks that came
// back (lost, returned, retried) are kept in an ordered set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/books/blob_table.hpp"
#include "broker/books/task_window.hpp"
#include "broker/books/user_table.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

// A lease that a worker reported for a task that its producer has not submitted again yet.
struct AdoptedLease {
  WorkerIndex worker = kNoWorker;
  Attempt attempt{};
  std::optional<Outcome> outcome;
};

// Why tasks of a job ended at the broker, and what all that did for this reason are told.
struct SharedFailure {
  OutcomeStatus status{};
  Failure failure;
  Payload body;
};

struct WaitGroup;

// Workers, one bit each: membership costs no search and no allocation per worker.
class WorkerSet {
 public:
  // True when it was not in the set.
  bool insert(WorkerIndex index) {
    if (index >= members_.size()) members_.resize(index + 1);
    if (members_[index]) return false;
    members_[index] = true;
    return true;
  }
  void erase(WorkerIndex index) {
    if (index < members_.size()) members_[index] = false;
  }
  template <typename Visit>  // visit(WorkerIndex), in index order
  void each(Visit&& visit) const {
    for (WorkerIndex index = 0; index < members_.size(); ++index) {
      if (members_[index]) visit(index);
    }
  }

 private:
  std::vector<bool> members_;
};

struct SessionRecord;
struct Demand;
struct ClassCache;

struct JobRecord {
  JobRecord(SessionRecord& owner, JobId id_in, JobKey key_in)
      : session(&owner), id(id_in), key(key_in) {}

  SessionRecord* session;
  JobId id;
  JobKey key;
  JobSpec spec;
  bool declared = false;          // JOB arrived; false: only leases of it were reported …
  Time unclaimed_since{0};        // … and since then its producer could have said JOB
  bool closed = false;            // END_JOB arrived
  bool names_blobs = false;       // its body or a task of it does
  Demand* demand = nullptr;       // what its tasks ask for; null: one slot each, and no more
  ClassCache* classes = nullptr;  // where its function runs; null: not looked up yet

  std::uint64_t queued = 0;
  std::uint64_t leased = 0;
  std::uint64_t done = 0;
  std::uint64_t failed = 0;
  // Bytes of its results that the program has not consumed: blobs that the producer has not
  // released, what it says of the rest, and what it has not acknowledged; and the mean of a result
  // that is so counted.
  std::uint64_t held_blob_bytes = 0;
  std::uint64_t told_bytes = 0;
  std::uint64_t outcome_bytes = 0;
  std::uint64_t mean_result_bytes = 0;
  Time full_since = kNever;  // since when it waits because of them, and none was released
  bool starves = false;      // so long that one more task may start: its producer may wait for it
  std::vector<std::uint64_t> ready;  // ended, not yet sent to the producer
  std::unique_ptr<SharedFailure> last_failure;
  std::unordered_map<std::uint64_t, AdoptedLease> adopted;
  WorkerSet told;  // workers that have WORKER_JOB

  Duration mean_duration{0};  // learned; 0: unknown
  double virtual_time = 0;    // fair queueing: service received, weighted
  bool runnable = false;      // is in the run queue, under the two values that follow …
  std::int32_t run_priority = 0;
  double run_time = 0;
  WaitGroup* waits_in = nullptr;     // … in this group of those that found no room
  Time unplaced_since = kNever;      // since when nothing of it could be placed
  std::string waiting;               // the last reason told to the producer
  std::uint64_t output_dropped = 0;  // lines, not yet said to the producer

  // --- The window ---
  std::uint64_t base() const { return tasks_.base(); }
  std::uint64_t end() const { return tasks_.end(); }
  // The task of that sequence; null when it is not in the window.
  [[gnu::always_inline]] TaskRecord* find(std::uint64_t sequence) { return tasks_.find(sequence); }
  // Records to fetch ahead of the one in hand: a memory access, at some 20 ns a record.
  static constexpr std::uint64_t kPrefetchRecords = 16;
  void prefetch(std::uint64_t sequence) const { tasks_.prefetch(sequence); }
  // Appends the task of sequence end(). The first task of an empty window may start anywhere.
  TaskRecord& append(std::uint64_t sequence, Payload&& payload);
  // The producer has the outcomes of those from end() to `sequence`, which is not submitted yet.
  // Precondition: the window is not empty.
  void skip_to(std::uint64_t sequence);
  std::uint64_t skipped_records() const { return skipped_records_; }
  std::uint64_t records() const { return tasks_.records(); }
  void drop_acknowledged();  // from the front
  // visit(sequence, task) for those of `first` … `last` - 1 that there are; it changes no window.
  template <typename Visit>
  void each(std::uint64_t first, std::uint64_t last, Visit&& visit) {
    last = std::min(last, end());
    for (std::uint64_t s = tasks_.next(std::max(first, base())); s < last; s = tasks_.next(s + 1)) {
      visit(s, *find(s));
    }
  }
  template <typename Visit>
  void each(Visit&& visit) {
    each(base(), end(), visit);
  }
  // visit(sequence, task, range) for the tasks in each of these ranges. Ranges that overlap are
  // looked at twice at most: what a peer says must not cost more than the window is long.
  template <typename Range, typename Visit>
  void each_in(const std::vector<Range>& ranges, Visit&& visit) {
    std::uint64_t looks = 2 * records();
    for (const Range& range : ranges) {
      const std::uint64_t last = value(range.first) + range.count;
      each(value(range.first), last, [&](std::uint64_t sequence, TaskRecord& task) {
        if (looks == 0) return;
        --looks;
        visit(sequence, task, range);
      });
      if (looks == 0) return;
    }
  }
  // Leases that it may have out at once.
  std::uint64_t lease_limit() const {
    const std::uint64_t cap = spec.max_running == 0 ? UINT64_MAX : spec.max_running;
    return mean_result_bytes == 0 && held_bytes() == 0 ? cap : std::min(cap, result_limit());
  }
  // Results that are not blobs count as held only where they are much, on their way or at the
  // program: else they would cost work for each task.
  bool counts_inline() const { return told_bytes > 0 || outcome_bytes >= limits::kLeastHeldBytes; }
  std::uint64_t held_bytes() const {
    return held_blob_bytes + (counts_inline() ? told_bytes + outcome_bytes : 0);
  }
  bool is_full() const;  // it holds as much as it may
  // Some of its tasks are queued although later ones may have run: those whose worker was lost.
  bool repeats_tasks() const { return !returned_.empty() || !last_chance_.empty(); }
  // It has as many leases out as it may.
  bool at_cap() const { return leased >= lease_limit(); }
  // Leases that it may have in addition, if so many are queued.
  std::uint64_t leasable() const {
    const std::uint64_t limit = lease_limit();
    return leased >= limit ? 0 : std::min<std::uint64_t>(queued, limit - leased);
  }
  // Leases whose outcomes most likely fit into what it may hold; none when that is full, but for
  // one now and then, so that the oldest missing result comes.
  std::uint64_t result_limit() const;
  bool drained() const { return closed && tasks_.empty() && adopted.empty(); }

  // --- The queue: tasks that came back first, then in submission order ---
  void requeue(std::uint64_t sequence, TaskRecord& task);
  // Takes this queued task out of the queue, because it ended or was adopted.
  void unqueue(std::uint64_t sequence);
  // Takes the next queued task. `fresh_only`: none whose worker was lost. Nothing: none is left.
  std::optional<std::uint64_t> take_queued(bool fresh_only);
  // The task that take_queued would return now.
  std::optional<std::uint64_t> peek_queued(bool fresh_only);
  // Takes a task on its last permitted run, which take_queued never does.
  std::optional<std::uint64_t> take_last_chance();
  bool is_last_chance(const TaskRecord& task) const {
    return task.losses > 0 && task.losses + 1U >= spec.crash_budget;
  }
  bool has_last_chance() const { return !last_chance_.empty(); }
  // There are queued tasks that take_queued would return.
  bool has_queued() const { return queued > last_chance_.size(); }

 private:
  TaskWindow tasks_;
  std::uint64_t skipped_records_ = 0;  // that skipped tasks took since the window was empty
  std::uint64_t cursor_ = 0;           // every queued task at or after it was never leased
  std::set<std::uint64_t> returned_;
  std::set<std::uint64_t> last_chance_;
};

struct SessionRecord {
  SessionId id;
  UserRecord* user = nullptr;  // who said its HELLO; null: only workers have named it so far
  std::uint64_t number = 0;    // how people know it: its id is its producer's secret
  Credit credit;
  std::string label;
  PeerId peer{};
  bool present = false;   // it has a live connection
  bool silent = false;    // it has a connection, but was not heard for long: is told nothing
  bool greeted = false;   // it said HELLO to this incarnation; false: workers spoke of it
  bool resuming = false;  // it was another incarnation's session: workers may hold its leases
  Time last_heard{0};
  Time last_sent{0};
  Time away_since{0};  // neither present nor silent: since then
  Time hold_until{0};  // leases nothing before: workers may still report what they run
  std::unordered_map<std::uint32_t, JobRecord*> jobs;
  std::uint64_t open_tasks = 0;       // without outcome: what counts against its credit
  std::uint64_t outcomes_held = 0;    // not acknowledged
  std::uint64_t payload_bytes = 0;    // of tasks without outcome
  std::uint64_t outcome_bytes = 0;    // of outcomes that it has not acknowledged
  std::uint64_t skipped_records = 0;  // of its jobs
  // Bytes of results that the program has not consumed, of all jobs, and what each may hold.
  std::uint64_t held_blob_bytes = 0;
  std::uint64_t told_bytes = 0;
  std::uint64_t held_limit = limits::kHeldResultBytes;
  BlobTable blobs;  // that it keeps
  // Stores of computed values that its tasks may use, and where their values stand.
  std::map<std::string, std::string> stores;
  bool has_named_stores = false;  // it has said something since its greeting, stores first
  // OUTPUT since it was last heard: what it may not have read yet.
  std::uint64_t output_messages = 0;
  std::uint64_t output_bytes = 0;
};

}  // namespace muster
