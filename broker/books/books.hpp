// The broker's books: sessions, jobs, tasks, workers, users and leases. Nobody else changes the
// counters of these records, so that what the books say adds up after every call. Pure.
//
// Owner: the scheduler. What a message means is decided in broker/scheduling, and who gets a lease
// in broker/placement; both call these functions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/books/job_groups.hpp"
#include "broker/books/job_table.hpp"
#include "broker/books/reported_leases.hpp"
#include "broker/books/reservations.hpp"
#include "broker/books/run_queue.hpp"
#include "broker/books/scheduler_options.hpp"
#include "broker/books/user_table.hpp"
#include "broker/books/worker_table.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class Books {
 public:
  using Sessions = std::unordered_map<SessionId, std::unique_ptr<SessionRecord>>;
  using Jobs = std::unordered_map<JobKey, std::unique_ptr<JobRecord>>;

  Books(SchedulerOptions options, Time now);
  Books(const Books&) = delete;
  Books& operator=(const Books&) = delete;

  // --- The tables
  const SchedulerOptions& options() const { return options_; }
  Time started() const { return started_; }
  Sessions& sessions() { return sessions_; }
  const Sessions& sessions() const { return sessions_; }
  Jobs& jobs() { return jobs_; }
  const Jobs& jobs() const { return jobs_; }
  WorkerTable& workers() { return workers_; }
  const WorkerTable& workers() const { return workers_; }
  WorkerRecord& worker(WorkerIndex index) { return workers_.at(index); }
  const WorkerRecord& worker(WorkerIndex index) const { return workers_.at(index); }
  UserTable& users() { return users_; }
  const UserTable& users() const { return users_; }
  ReportedLeases& reports() { return reports_; }
  const ReportedLeases& reports() const { return reports_; }
  RunQueue& queue() { return run_queue_; }
  const RunQueue& queue() const { return run_queue_; }
  JobGroups& groups() { return groups_; }
  const JobGroups& groups() const { return groups_; }
  Reservations& reservations() { return reservations_; }
  const Reservations& reservations() const { return reservations_; }
  // Jobs with a task on its last permitted run.
  std::set<JobKey>& last_chance_jobs() { return last_chance_jobs_; }
  const std::set<JobKey>& last_chance_jobs() const { return last_chance_jobs_; }
  // Workers that said that leases wait there for blobs.
  const std::set<WorkerIndex>& waiting_workers() const { return waiting_workers_; }
  // Jobs that name blobs.
  std::uint64_t blob_jobs() const { return blob_jobs_; }

  // --- Counters for people, and the turn
  void count(const std::string& name, std::uint64_t more = 1) { counters_[name] += more; }
  std::map<std::string, std::uint64_t>& counters() { return counters_; }
  const std::map<std::string, std::uint64_t>& counters() const { return counters_; }
  std::uint64_t counter(const std::string& name) const;
  // How often the scheduler has filled its output.
  std::uint64_t turn() const { return turn_; }
  void end_turn() { ++turn_; }

  // --- Sessions and their users
  // The session, which is made if there is none.
  SessionRecord& meet_session(const SessionId& id);
  // Null: there is none.
  SessionRecord* find_session(const SessionId& id) const;
  // The session is this user's from now on, and has the credit that the user may give.
  void join_user(SessionRecord& session, const LocalUser& local);
  // The session has ended, and holds nothing. Returns others of its user that have more credit now.
  std::vector<SessionRecord*> leave_user(SessionRecord& session);
  // Precondition: it has no job and has left its user.
  void remove_session(SessionRecord& session) { sessions_.erase(SessionId(session.id)); }

  // --- Jobs
  // Null: there is none.
  JobRecord* find_job(JobKey key) const;
  JobRecord* find_job(SessionRecord& session, JobId id) const;
  JobRecord* find_job(const SessionId& session, JobId id) const;
  JobRecord& make_job(SessionRecord& session, JobId id);
  // Its JOB message has come.
  void declare(JobRecord& job, JobSpec&& spec);
  // Its tasks and leases no longer count. Call settle() for its workers, then remove_job().
  void close_job(JobRecord& job);
  void remove_job(JobRecord& job);
  // The job, or a task of it, names blobs.
  void note_blobs(JobRecord& job);

  // --- Tasks
  TaskRecord& accept_task(JobRecord& job, std::uint64_t sequence, Payload&& payload);
  // The task has its outcome. It must be in no queue and have no lease.
  void end(JobRecord& job, TaskRecord& task, Outcome&& outcome);
  // The producer has the outcome of this ended task.
  void acknowledge(JobRecord& job, TaskRecord& task);
  // The task runs again: before those that never ran.
  void requeue(JobRecord& job, std::uint64_t sequence, TaskRecord& task);

  // --- Leases
  struct LeaseHint {
    bool is_short = false;  // leased ahead freely: it is done in a moment
    bool fetches = false;   // the worker lacks blobs of it
  };
  // The task, which is in no queue, is this worker's. Returns the attempt.
  Attempt lease(JobRecord& job, WorkerIndex index, std::uint64_t sequence, TaskRecord& task,
                LeaseHint hint);
  // The worker has had a lease of this task for long, which is in no queue.
  void adopt(JobRecord& job, WorkerIndex index, std::uint64_t sequence, TaskRecord& task,
             Attempt attempt);
  // The lease is over: the worker's books, not the task's fate. Call settle() after the last of a
  // message.
  void close_lease(JobRecord& job, TaskRecord& task);
  // Whether `task`, a part of the run or null, is still leased as the run says.
  bool is_open(WorkerIndex index, const LeaseRun& run, const TaskRecord* task) const;
  // Drops closed leases from the worker's order, and puts the worker on its new level.
  void settle(WorkerIndex index);
  // The worker reported a lease of a task that its producer has not submitted yet.
  void adopt_early(AdoptedLease& adopted, WorkerIndex index, Attempt attempt);
  // Its outcome has come. Precondition: drop_adopted().
  void keep_early(AdoptedLease& adopted, Outcome&& outcome);
  // The lease, or its outcome, counts no longer among what the worker has here.
  void drop_adopted(const AdoptedLease& adopted);
  // So many leases that a worker reported of sessions which are not here begin or end to count.
  void add_reported(WorkerIndex index, std::uint64_t count);
  void drop_reported(WorkerIndex index, std::uint64_t count);

  // --- Workers
  WorkerIndex add_worker(message::HelloWorker&& hello, const std::string& user);
  // Precondition: it has no leases.
  void remove_worker(WorkerIndex index);
  // What it says of its cache.
  void hear_blobs(WorkerIndex index, message::WorkerBlobs&& said);
  // It connects, and says anew what it has.
  void forget_blobs(WorkerIndex index);

  // --- What may be leased
  // A producer that does not acknowledge its outcomes gets no more of them.
  bool takes_outcomes(const SessionRecord& session) const;
  bool wants_leases(const JobRecord& job) const;
  // Call after any change of what wants_leases() looks at. A job at its cap so steps out of the
  // queue until one of its leases ends.
  void set_runnable(JobRecord& job);
  // The job may have more leases out than before, or fewer.
  void review_limit(JobRecord& job);
  // The worker that is kept free for last permitted runs serves everybody again once no task needs
  // it.
  void release_reservation();

  // Aborts if the tables contradict each other. O(everything): for tests and simulation.
  void check_invariants() const;

 private:
  bool grant(SessionRecord& session);
  void charge(const JobRecord& job, WorkerRecord& worker) const;
  void refund(const JobRecord& job, WorkerRecord& worker) const;
  void flag_fetching(const JobRecord& job, TaskRecord& task, WorkerRecord& worker,
                     bool fetches) const;

  SchedulerOptions options_;
  Time started_;
  UserTable users_;
  Sessions sessions_;
  Jobs jobs_;
  WorkerTable workers_;
  ReportedLeases reports_;
  RunQueue run_queue_;
  JobGroups groups_{workers_, run_queue_};
  Reservations reservations_{workers_};
  std::set<JobKey> last_chance_jobs_;
  std::set<WorkerIndex> waiting_workers_;
  std::uint64_t blob_jobs_ = 0;
  std::uint64_t turn_ = 1;
  std::uint64_t last_key_ = 0;
  std::uint64_t last_session_ = 0;
  std::map<std::string, std::uint64_t> counters_;
};

// Outcomes of one worker that are kept for producers which are not back yet, with what each takes
// here; it is told to forget what is beyond, and such tasks run again.
inline constexpr std::uint64_t kMaxEarlyBytes = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kEarlyOverhead = 4096;
std::uint64_t early_bytes_of(const Outcome& outcome);

}  // namespace muster
