// The broker's decisions: sessions, jobs, tasks, workers, leases. Pure: it is handed events and the
// time, and returns messages; it never reads a clock, a socket or a file. docs/protocol.md says
// what every message does.
//
// Owner: the broker's loop, or the simulator. Threads: one at a time.
// Cost: O(1) per task, O(log jobs) per batch of leases, independent of the number of workers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "broker/books/job_table.hpp"
#include "broker/books/reported_leases.hpp"
#include "broker/books/run_queue.hpp"
#include "broker/books/user_table.hpp"
#include "broker/books/worker_table.hpp"
#include "broker/stores/memo_claims.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class BlobFiles;

struct SchedulerOptions {
  Incarnation incarnation;
  std::string software_version;
  // How a person starts a worker for this broker; part of error texts.
  std::string worker_hint = "muster-worker --connect ENDPOINT";
  std::chrono::milliseconds heartbeat_interval = limits::kHeartbeatInterval;
  std::uint32_t heartbeat_misses = limits::kHeartbeatMisses;
  std::uint64_t credit_tasks = limits::kCreditTasks;  // per session
  std::uint64_t credit_bytes = limits::kCreditBytes;  // per session
  // A producer whose connection ended keeps its tasks for so long. One that is only silent (it was
  // stopped) keeps them as long as its connection lives.
  Duration session_grace = std::chrono::seconds(60);
  // Tasks fail with kind "no_worker" when for so long no worker is connected …
  Duration no_worker_timeout = std::chrono::seconds(60);
  // … and with "unknown_function", "wrong_interpreter" or "no_worker" when workers are connected
  // but none offers the function, has its Python, or has the labels and resources that a task asks
  // for: long enough for the other workers of a pool that is just starting.
  Duration unknown_function_timeout = std::chrono::seconds(2);
  // After a broker's start, sessions of an earlier incarnation lease nothing for so long, so that
  // workers can report what they already run: a little more than the longest reconnect interval.
  Duration resume_wait = std::chrono::milliseconds(2500);
  bool pack = false;  // workers may be on other machines: what WELCOME tells producers
  // Acknowledgements to a worker wait for tasks that go there, so long at most: a lone task then
  // costs one message less.
  Duration acknowledgement_window = limits::kAcknowledgementWindow;
  // What keeps the bytes of blobs; outlives the scheduler. None (simulators): every blob is there.
  BlobFiles* blobs = nullptr;
  std::vector<std::string> blob_folders = {};  // what WELCOME says of them
  std::string blob_token = {};
  std::uint64_t credit_blob_bytes = std::uint64_t{1} << 62;  // per session
  std::uint64_t credit_memory_bytes = 0;
};

// What a producer wants of the nodes that the broker reaches by ssh: not the scheduler's to do.
struct NodeRequest {
  PeerId peer{};  // gets the answer
  std::variant<message::NodesUp, message::NodesDown> request;
};

// Whoever is behind a connection that came through an endpoint which authenticates.
struct RemoteUser {
  std::string name;
  std::string proof;        // WELCOME carries it
  bool is_admitted = true;  // false: no longer
};

class Scheduler {
 public:
  Scheduler(SchedulerOptions options, Time now);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // --- Events ---
  // Who greets, with a greeting: `user` on a connection that is not local, where only workers may;
  // `local` on the others.
  void receive(PeerId peer, Message&& message, Time now, const RemoteUser* user = nullptr,
               const LocalUser& local = {});
  // Whether nothing that this peer says counts any more: it was refused. Its message is counted.
  bool ignores(PeerId peer, Time now);
  // A message of this peer could not be decoded.
  void malformed(PeerId peer, message::RefuseCode code, const std::string& reason, Time now);
  // A send failed: the connection is gone.
  void disconnected(PeerId peer, Time now);
  // A send failed: the peer does not read, but its connection lives. A producer keeps what it has
  // (it may be stopped); it is told nothing more until it says HELLO. False: that was so already.
  bool not_reading(PeerId peer, Time now);
  // This remote user may no longer work here: its workers are refused.
  void revoke(const std::string& user);
  void tick(Time now);
  Time next_deadline() const;

  // Leases what can be leased, then returns every message to send. Call after each burst of events.
  std::vector<Outgoing> take_outgoing(Time now);

  // --- Nodes
  // Requests that came since the last call; answer() each.
  std::vector<NodeRequest> take_node_requests() { return std::exchange(node_requests_, {}); }
  // Dropped when that producer is gone.
  void answer(PeerId peer, message::NodesAnswer&& answer);
  // STATUS shows these from now on, each with the round trip of the worker on it.
  void set_nodes(std::vector<message::NodeStatus> rows) { nodes_ = std::move(rows); }

  // --- Stores of computed values: not the scheduler's to answer
  // Questions that came since the last call, and the sessions and workers that are no more.
  struct StoreEvent {
    StoreOrigin origin;
    std::optional<message::StoreRequest> request;  // nothing: it is gone
  };
  std::vector<StoreEvent> take_store_events() { return std::exchange(store_events_, {}); }
  // Dropped while that peer is away: it asks again when it is back.
  void answer(const StoreOrigin& origin, message::StoreAnswer&& answer);
  // --- Blobs: what whoever moves their bytes needs to know
  struct WorkerName {
    WorkerId id;
    std::string user;  // empty: the broker's own
    bool shares = false;
  };
  // The worker behind this connection; nothing when there is none.
  std::optional<WorkerName> worker_at(PeerId peer) const;
  // A connected or missed worker of this id.
  std::optional<WorkerName> worker_named(const WorkerId& id) const;
  // Whether anything is known of this connection but that it was told UNKNOWN.
  bool knows(PeerId peer) const;
  // Whether the outcome of this lease would be taken.
  bool expects_outcome(const WorkerId& worker, const SessionId& session, JobId job,
                       TaskSequence sequence, Attempt attempt) const;
  // Outcomes of a worker whose blobs are all here.
  void deliver(const WorkerId& worker, message::WorkerOutcomes&& outcomes, Time now);
  // What STATUS says beside the counters.
  void count(const std::string& name) { ++counters_[name]; }
  void set_gauge(const std::string& name, std::uint64_t number) { gauges_[name] = number; }
  // Tells a connection on which only blobs travel what it did wrong, and ignores it from now on.
  void refuse_bulk(PeerId peer, message::RefuseCode code, std::string text, Time now);
  const SchedulerOptions& options() const { return options_; }

  // --- Views ---
  message::Status status(Time now) const;
  // What STATUS calls this session; empty: there is none.
  std::string shown(const SessionId& id) const;
  const std::map<std::string, std::uint64_t>& counters() const { return counters_; }
  std::uint64_t counter(const std::string& name) const;
  // A count that others keep; absent from counters() until it is not 0.
  void set_counter(const std::string& name, std::uint64_t count) {
    if (count != 0 || counters_.count(name) != 0) counters_[name] = count;
  }
  std::uint64_t tasks_held() const;
  bool waits_for_producer(const SessionId& session, JobId job) const;
  // Aborts if any of the tables contradict each other. O(everything): for tests and simulation.
  void check_invariants() const;

 private:
  enum class PeerKind { told_unknown, refused, session, silent_session, worker };
  struct Peer {
    PeerKind kind{};
    SessionRecord* session = nullptr;
    WorkerIndex worker = kNoWorker;
    Time last_heard{0};
    Time told_unknown = -std::chrono::hours(1);  // a silent session, the last time
  };

  // scheduler.cpp: connections and liveness
  void dispatch_message(Peer& peer, PeerId id, Message&& message, Time now);
  void greet(PeerId peer, Message&& message, Time now, const RemoteUser* user,
             const LocalUser& local);
  void welcome(PeerId peer, const SessionRecord* session, Time now,
               const RemoteUser* user = nullptr);
  void refuse(PeerId peer, message::RefuseCode code, std::string text);
  void send(PeerId peer, Message&& message) { outgoing_.push_back({peer, std::move(message)}); }
  void send_worker(WorkerIndex index, Message&& message);  // dropped while it is away
  bool check_version(PeerId peer, std::uint32_t protocol, const std::string& software);
  void check_liveness(Time now);
  void check_session(SessionRecord& session, Time now);
  void own_up_to_standstill(Time now);
  void hear_silent(Peer& peer, PeerId id, Time now);
  void forget_unclaimed(Time now);
  void announce_pool();

  // scheduler_producer.cpp
  void on_producer(SessionRecord& session, Message&& message, Time now);
  void hello(PeerId peer, message::HelloProducer&& hello, Time now, const LocalUser& local);
  void request_nodes(SessionRecord& session, NodeRequest&& request);
  void declare(SessionRecord& session, message::Job&& message);
  void submit(SessionRecord& session, message::Submit&& message);
  void accept_task(JobRecord& job, std::uint64_t sequence, Payload&& payload);
  void cancel(SessionRecord& session, const message::Cancel& message);
  void acknowledge(SessionRecord& session, const message::AcknowledgeOutcomes& message);
  void forget_connection(const SessionRecord& session);
  void end_session(SessionRecord& session);
  void forget_job(JobRecord& job);
  JobRecord* find_job(SessionRecord& session, JobId id);
  JobRecord& make_job(SessionRecord& session, JobId id);

  // scheduler_users.cpp
  bool admit_session(PeerId peer, const SessionId& id, const LocalUser& local);
  void join_user(SessionRecord& session, const LocalUser& local);
  bool grant(SessionRecord& session);
  void leave_user(SessionRecord& session);
  static std::uint64_t blob_credit(const LocalUser& who, std::uint64_t all);
  std::string beyond_user(const SessionRecord& session, std::uint64_t charged) const;
  static void count_kept(SessionRecord& session, const BlobTable::Kept& kept);
  static void count_released(SessionRecord& session, const BlobTable::Kept& kept);
  static std::string shown(const SessionRecord& session);
  void check_users() const;

  // scheduler_worker.cpp
  void on_worker(WorkerIndex index, Message&& message, Time now);
  void hello(PeerId peer, message::HelloWorker&& hello, Time now, const RemoteUser* user,
             const LocalUser& local);
  void outcomes(WorkerIndex index, message::WorkerOutcomes&& message, Time now);
  bool take_outcome(WorkerIndex index, JobRecord& job, std::uint64_t sequence, Attempt attempt,
                    Outcome&& outcome);
  void conclude(JobRecord& job, std::uint64_t sequence, TaskRecord& task, Outcome&& outcome);
  void requeue(JobRecord& job, std::uint64_t sequence, TaskRecord& task);
  void returned(WorkerIndex index, const message::Returned& message);
  void output(WorkerIndex index, message::WorkerOutput&& message);
  void lose_worker(WorkerIndex index, bool told_to_stop);
  void lose_lease(JobRecord& job, std::uint64_t sequence, TaskRecord& task, bool was_running);
  JobRecord* find_job(const SessionId& session, JobId id);

  // scheduler_reports.cpp: leases that workers report when they connect again
  void reconcile(WorkerIndex index, const std::vector<message::HeldLeases>& held, Time now);
  void reconcile_job(WorkerIndex index, JobRecord& job, const std::vector<LeaseRange>& held);
  void drop_adopted(const AdoptedLease& adopted);
  bool adopt_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence, Attempt attempt);
  void dismiss_adopted(JobRecord& job, std::uint64_t sequence, const AdoptedLease& adopted);
  std::vector<JobKey> withdraw(WorkerIndex index, bool with_outcomes);
  void forget_undeclared(const std::vector<JobKey>& keys);
  void claim_reports(SessionRecord& session, Time now);
  JobRecord* meet_early(WorkerIndex index, const SessionId& session, JobId job, Time now);
  void expire_reports(Time now);
  bool keep_early(WorkerIndex index, JobRecord& job, std::uint64_t sequence, Attempt attempt,
                  Outcome& outcome);
  void adopt_or_queue(JobRecord& job, std::uint64_t sequence, TaskRecord& task);
  void drop_stale_adopted(JobRecord& job, std::uint64_t before);

  // scheduler_dispatch.cpp: leasing
  void dispatch(Time now);
  bool lease_to_ready(Time now);
  WaitGroup& wait_group(JobRecord& job, bool is_held);
  template <typename Visit>  // visit(WaitGroup&) for all but held_jobs_
  void each_group(Visit&& visit) {
    for (auto& [key, cache] : class_cache_) {
      visit(cache.plain);
      visit(cache.near);
    }
    for (auto& [key, demand] : demands_) visit(demand.waiting);
  }
  void review_classes();
  void review_waiting(Time now);
  void drop_classes(JobRecord& job);
  struct Tally;
  void check_job(JobRecord& job, Tally& tally) const;
  void check_workers(Tally& tally) const;
  void check_sessions(Tally& tally) const;
  void check_waiting() const;
  bool place(JobRecord& job, Time now);
  bool place_last_chance(JobRecord& job);
  std::uint32_t prefetch(const JobRecord& job, const WorkerRecord& worker) const;
  std::uint32_t room(const JobRecord& job, const WorkerRecord& worker, std::uint64_t load) const;
  std::uint64_t share_of(const JobRecord& job, const WorkerRecord& worker) const;
  struct LeaseHint {
    std::uint64_t expected = 1;  // about how many tasks the message will hold
    bool is_short = false;       // leased ahead freely: it is done in a moment
    bool fetches = false;        // the worker lacks blobs of it
  };
  void lease(JobRecord& job, WorkerIndex index, std::uint64_t sequence, LeaseHint hint,
             message::Tasks& tasks);
  void send_tasks(JobRecord& job, WorkerIndex index, message::Tasks&& tasks);
  const std::vector<std::uint32_t>& eligible_classes(JobRecord& job);
  bool may_run(JobRecord& job, WorkerIndex index);
  WorkerIndex best_worker(JobRecord& job);
  bool wants_leases(const JobRecord& job) const;
  bool takes_outcomes(const SessionRecord& session) const;
  void set_runnable(JobRecord& job);
  void recall_unstarted(Time now);
  void recall_from(WorkerIndex index, WorkerIndex taker, std::uint32_t count, Time now);
  void send_recall(WorkerIndex index, message::Recall&& recall, Time now);
  void close_lease(JobRecord& job, TaskRecord& task);
  JobRecord* find_job(JobKey key);
  bool is_open(WorkerIndex index, const LeaseRun& run, const TaskRecord* task) const;
  void settle(WorkerIndex index);
  void release_reservation();
  void unreserve_last_chance_worker();

  // scheduler_place.cpp: tasks that name blobs
  struct Near {
    WorkerIndex worker = kNoWorker;
    std::int32_t level = 0;
    std::uint64_t missing_bytes = 0;
  };
  void hear_blobs(WorkerIndex index, message::WorkerBlobs&& said);
  void forget_blobs(WorkerIndex index);
  void note_blobs(JobRecord& job);
  bool lacks_blobs(const JobRecord& job, const TaskRecord& task, const WorkerRecord& worker) const;
  std::uint64_t missing_bytes(const JobRecord& job, const TaskRecord& task,
                              const WorkerRecord& worker) const;
  Duration transfer_time(const JobRecord& job, const TaskRecord& task, WorkerIndex index) const;
  Near find_near(JobRecord& job, const TaskRecord& task);
  bool place_near(JobRecord& job, Time now);
  void recall_waiting(Time now);
  void recall_waiting(WorkerIndex index, Time now);
  void flag_fetching(const JobRecord& job, TaskRecord& task, WorkerRecord& worker,
                     bool fetches) const;
  void flag_adopted(const JobRecord& job, TaskRecord& task, WorkerRecord& worker) const;
  bool was_waiting(const JobRecord& job, TaskRecord& task, const WorkerRecord& worker);
  void check_places() const;

  // scheduler_results.cpp: results that programs have not consumed
  static std::uint64_t blob_bytes(const Payload& payload);
  void count_result(JobRecord& job, const Outcome& outcome);
  void review_limit(JobRecord& job);
  void review_limits(SessionRecord& session);
  void review_results(JobRecord& job, Time now);
  void release_result(SessionRecord& session, JobKey job, std::uint64_t size_bytes);
  void hold_results(SessionRecord& session, const message::ResultsHeld& held);
  static std::string held_reason(const JobRecord& job);
  void check_results() const;

  // scheduler_blobs.cpp: who keeps which blobs
  void put_blobs(SessionRecord& session, const message::BlobPut& put);
  std::string put_blob(SessionRecord& session, const BlobSource& source, BlobState& state);
  void release_blobs(SessionRecord& session, const message::BlobRelease& released);
  void release_blob(SessionRecord& session, const BlobId& id);
  void release_stale(SessionRecord& session, const Outcome& outcome);
  void end_session_blobs(SessionRecord& session);
  std::string lost_blob(const Payload& payload) const;
  void end_if_lost(JobRecord& job, std::uint64_t sequence, TaskRecord& task);
  void check_outcome_blobs(Outcome& outcome);
  void keep_outcome_blobs(JobRecord& job, const Outcome& outcome, bool counted);
  void check_blobs() const;

  // scheduler_resources.cpp: tasks that take more than one slot
  void set_demand(JobRecord& job);
  void drop_demand(JobRecord& job);
  void consider(WorkerIndex index);    // a new worker, for every demand
  void unconsider(WorkerIndex index);  // it is gone
  void charge(const JobRecord& job, WorkerRecord& worker) const;
  void refund(const JobRecord& job, WorkerRecord& worker) const;
  bool has_room(const Demand& demand, const Demand::Candidate& candidate, std::uint64_t load) const;
  const Demand::Candidate* find_room(const JobRecord& job, const TaskRecord& task);
  WorkerIndex least_loaded(const Demand& demand) const;
  bool place_demanding(JobRecord& job, Time now);
  void reserve(Demand& demand, Time now);
  void release_drained();
  void review_drained(Time now);
  std::string nobody_is_large_enough(JobRecord& job);
  std::string nobody_has_room(JobRecord& job);
  void check_demands() const;

  // scheduler_stores.cpp
  struct StoreAccess {
    std::string space;      // where the store's values stand; empty: none is named so here
    bool is_early = false;  // nor refused yet
    bool is_ambiguous = false;
  };
  struct EarlyQuestion {
    WorkerIndex worker = kNoWorker;
    message::StoreRequest request;
  };
  void ask_store(SessionRecord& session, message::StoreRequest&& request);
  void ask_store(WorkerIndex index, message::StoreRequest&& request);
  StoreAccess store_access(WorkerIndex index, const std::string& store) const;
  bool keep_early(WorkerIndex index, message::StoreRequest& request);
  void review_early_questions();
  void set_stores_named(SessionRecord& session);
  void refuse_question(const StoreOrigin& origin, const message::StoreRequest& request,
                       std::string why);
  void forget_in_stores(const StoreOrigin& origin);
  static StoreOrigin origin_of(const SessionId& id) { return {false, id.high, id.low}; }
  static StoreOrigin origin_of(const WorkerId& id) { return {true, id.high, id.low}; }

  // scheduler_outcomes.cpp: what producers are told
  void end_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task, Outcome&& outcome);
  void fail_task(JobRecord& job, std::uint64_t sequence, TaskRecord& task, OutcomeStatus status,
                 const Failure& failure);
  void flush_outcomes();
  void flush_outcomes(JobRecord& job);
  void acknowledge_later(WorkerIndex index, message::AcknowledgeLeases&& message, Time now);
  void flush_acknowledgements(Time now);
  void resend_outcomes(JobRecord& job);
  void explain_waiting(Time now);
  void explain_waiting(JobRecord& job, Time now);
  std::string waiting_reason(JobRecord& job, Duration& patience, const char*& kind);
  std::string nobody_offers(const JobSpec& spec, const char*& kind);
  const std::string& offered_functions();
  std::string nobody_interprets(const Function& function);
  void notice(JobRecord& job, std::string text);

  SchedulerOptions options_;
  Time started_;
  Time next_tick_;
  Time last_tick_;
  std::unordered_map<PeerId, Peer> peers_;
  UserTable users_;
  std::unordered_map<SessionId, std::unique_ptr<SessionRecord>> sessions_;
  std::unordered_map<JobKey, std::unique_ptr<JobRecord>> jobs_;
  WorkerTable workers_;
  ReportedLeases reports_;
  RunQueue run_queue_;
  WaitGroup held_jobs_;  // of sessions that lease nothing yet
  std::uint64_t classes_seen_ = 0;
  std::set<JobKey> last_chance_jobs_;
  WorkerIndex reserved_worker_ = kNoWorker;
  std::vector<JobKey> ready_jobs_;
  std::vector<WorkerIndex> unacknowledged_;  // workers with acknowledgements, oldest first
  std::uint64_t turn_ = 1;
  std::vector<Outgoing> outgoing_;
  std::vector<NodeRequest> node_requests_;
  std::vector<StoreEvent> store_events_;
  std::vector<EarlyQuestion> early_questions_;  // of workers whose sessions are not back yet
  std::vector<message::NodeStatus> nodes_;
  message::Pool announced_;  // what every present session was told
  std::uint64_t last_key_ = 0;
  std::uint64_t last_session_ = 0;
  // What decides where a job runs: its kind, whether it brings its native function along, that
  // function's name if it does not or a python function's interpreter, and its labels.
  using ClassKey = std::tuple<FunctionKind, bool, std::string, std::vector<std::string>>;
  static ClassKey class_key(const JobSpec& spec);
  std::map<ClassKey, ClassCache> class_cache_;
  // … and what its tasks take: processor thousandths, memory, accelerators.
  using DemandKey = std::tuple<ClassKey, std::uint32_t, std::uint64_t, std::uint32_t>;
  static DemandKey demand_key(const JobSpec& spec);
  std::map<DemandKey, Demand> demands_;
  // A worker that gets no other leases until a task of this demand fits, so that a wide task finds
  // its slots on a busy pool.
  struct Drained {
    WorkerIndex worker = kNoWorker;
    Demand* demand = nullptr;
    Time until = kNever;  // it is kept so long after the first task found room
  };
  Drained drained_;
  struct ClassRoom {  // of the workers of a class together, at the last tick
    std::uint64_t stuck_slots = 0;
    std::uint64_t usable_slots = 0;
    std::string paused;  // one that pauses, and why
  };
  std::vector<ClassRoom> class_rooms_;
  std::string offered_functions_;  // for people, by the workers of this generation
  std::uint64_t offered_generation_ = 0;
  std::uint64_t blob_jobs_ = 0;            // jobs that name blobs
  std::set<WorkerIndex> waiting_workers_;  // who said that leases wait there for blobs
  WorkerIndex next_giver_ = 0;             // of those, who is looked at next
  std::uint64_t searches_turn_ = 0;        // the turn of …
  std::uint32_t searches_failed_ = 0;      // … these searches for a worker near a task's blobs
  std::map<std::string, std::uint64_t> counters_;
  std::map<std::string, std::uint64_t> gauges_;
};

}  // namespace muster
