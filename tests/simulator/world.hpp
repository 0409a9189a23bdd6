// A small world for the three pure cores: one broker (Scheduler), workers (Agent and a pretended
// executor) and producers (Session and Collectors) on a simulated network and clock.
//
// Every message passes through the real codec. All randomness comes from one seed; a step is one
// event. The world keeps the ground truth (what was submitted, what runs where) and checks the
// cores against it after every step (`check`); Audit explains every run of a task, and at the end
// nobody may hold anything (`settle`).
//
// One class over several sources, a source for each kind of inhabitant: they share one clock and
// one ground truth, and each is told of what the others do.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "broker/scheduling/scheduler.hpp"
#include "common/protocol/codec.hpp"
#include "producer/session/collector.hpp"
#include "producer/session/session.hpp"
#include "tests/simulator/audit.hpp"
#include "tests/simulator/hostile.hpp"
#include "tests/simulator/plan.hpp"
#include "tests/support/blob_set.hpp"
#include "worker/agent/agent.hpp"

namespace muster::simulator {

// What the run was made of; a test that never saw a retry proves nothing about retries.
struct Coverage {
  std::map<std::string, std::uint64_t> counts;
};

class World {
 public:
  explicit World(const Plan& plan);
  ~World();

  // Runs to the end: chaos, healing, quiet, nothing held. Returns what went wrong; empty: nothing.
  std::string run();
  const Coverage& coverage() const { return coverage_; }
  // A digest of every event in order: equal for equal seeds.
  std::uint64_t digest() const { return digest_; }

 private:
  struct Link;      // one end's connections to the broker
  struct Worker;    // agent and executor
  struct Producer;  // session and its jobs
  struct Task;      // ground truth of one task
  using Action = std::function<void()>;

  // --- world.cpp: clock and chance, and what must hold
  void after(Duration delay, Action action);
  std::uint64_t random(std::uint64_t below);
  bool chance(double probability);
  Duration random_duration(Duration below);
  void fail(const std::string& what);
  void count(const std::string& what, std::uint64_t more = 1) { coverage_.counts[what] += more; }
  void count_broker();
  bool step();
  void check();
  void check_caps();
  bool finished() const;
  std::string missing() const;

  // --- settle.cpp: the end
  void settle();
  void wait_until_nothing_is_held(const char* phase, std::string (World::*held)() const);
  std::string held_tasks() const;
  std::string held_sessions() const;
  void check_counters();

  // --- network.cpp
  void connect(Link& link);
  void break_link(Link& link, Duration away);
  void replace_link(Link& link);
  void to_broker(Link& link, const Message& message);
  void say(Link& link, const Frames& frames);
  void arrive_at_broker(Link& link, std::uint64_t connection, std::uint64_t peer,
                        const Frames& frames);
  void take(Link& link, std::uint64_t peer, Message&& message);
  void arrive_at_peer(Link& link, std::uint64_t connection, const Frames& frames);
  void deliver_to_peer(Link& link, const Frames& frames);
  void trace(const Link& link, std::uint64_t peer, const char* where, const Message& message) const;
  void pump_broker();
  void start_broker();
  void crash_broker();
  void look_for_lost();
  void doubt(Worker& worker);
  void check_leases(const message::Tasks& tasks);
  void check_refusal(std::uint64_t peer, const Message& message);

  // --- workers.cpp
  void start_worker(std::uint32_t number);
  void crash_worker(std::uint32_t number);
  void bury_worker(std::uint32_t number);
  void leave_worker(std::uint32_t number);
  void pump_worker(Worker& worker);
  void run_next(Worker& worker);
  void start_task(Worker& worker, TaskStart&& start);
  void account_for(Worker& worker, const Lease& lease);
  void note_untold(Worker& worker, const std::vector<message::HeldLeases>& held);
  void check_room(const Worker& worker);
  void pause_worker(std::uint32_t number);
  void end_task(Worker& worker, const Lease& lease, bool stopped);
  Outcome outcome_of(const Lease& lease, const Payload& payload);
  bool is_ours(const SessionId& session) const;

  // --- blobs.cpp
  BlobName blob_of(std::uint64_t number) const;
  Payload with_names(std::uint32_t job, std::uint64_t sequence, Payload body) const;
  void need_blobs(Producer& producer, const Payload& payload);
  void let_go_of_blobs(Producer& producer, const Payload& payload);
  void answer_blobs(Producer& producer, const std::vector<BlobAnswer>& answers);
  void pull_results(std::uint64_t peer, const Message& message);
  void check_result_blobs(Producer& producer, const Payload& body);
  void carry_blobs(Worker& worker, const std::vector<BlobRequest>& requests);
  void end_fetch(Worker& worker, const BlobId& id);
  void evict(Worker& worker, const BlobId& id);
  void check_blobs(const Worker& worker, const Payload& payload);

  // --- producers.cpp
  void start_producer(std::uint32_t number);
  JobSpec draw_spec(std::uint32_t number);
  void feed(Producer& producer);
  void pump_producer(Producer& producer);
  void leave_producer(Producer& producer, bool says_goodbye);
  void check_output(Producer& producer, const message::Output& output);
  void check_outcome(Producer& producer, std::uint32_t job, const Collected& collected);

  // --- faults.cpp
  Link* any_link();
  void schedule_chaos();
  void break_something();
  void hurt_somebody();
  void let_somebody_go();
  void stall(Link& link, Duration time);
  void go_on(Link& link);
  void stall_broker(Duration time);
  void schedule_hostility();
  void claim(HostilePeer::Said& said);
  void schedule_ticks();
  void tick_worker(Worker& worker);
  void tick_producer(Producer& producer);

  Plan plan_;
  std::mt19937_64 generator_;
  // The clock does not begin at 0, where what was never set would seem to be recent.
  static constexpr Time kStart = std::chrono::hours(1);
  Time now_ = kStart;
  std::uint64_t order_ = 0;
  struct Event {
    Time time;
    std::uint64_t order;
    std::shared_ptr<Action> action;
    bool operator<(const Event& other) const {  // std::priority_queue keeps the greatest on top
      return std::tie(time, order) > std::tie(other.time, other.order);
    }
  };
  std::priority_queue<Event> events_;
  testing::BlobSet files_;  // the broker's folders, which outlive it
  std::unique_ptr<Scheduler> scheduler_;
  bool broker_still_ = false;
  std::deque<Action> broker_happened_;  // while it stood still, in order
  Time resume_ends_ = kNever;           // workers that greet later may find their tasks given away
  std::uint64_t sessions_expired_ = 0;
  std::uint64_t result_blobs_ = 0;
  std::uint64_t incarnations_ = 0;
  std::uint64_t worker_starts_ = 0;
  std::uint64_t next_peer_ = 1;
  std::map<std::uint64_t, Link*> peers_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Worker>> buried_;  // events may still name them
  std::vector<std::unique_ptr<Producer>> producers_;
  std::map<Audit::TaskName, std::uint32_t> running_;
  Audit audit_;
  std::unique_ptr<HostilePeer> hostile_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> refused_;  // incarnations and connections
  bool healing_ = false;
  bool closing_ = false;  // everything is done and said: nobody comes any more
  std::uint64_t steps_ = 0;
  std::string failure_;
  Coverage coverage_;
  std::uint64_t digest_ = 14695981039346656037ULL;
};

}  // namespace muster::simulator
