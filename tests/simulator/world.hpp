// A small world for the three pure cores: one broker (Scheduler), workers (Agent and a pretended
// executor) and producers (Session and Collectors) on a simulated network and clock.
//
// Every message passes through the real codec. All randomness comes from one seed; a step is one
// event. The world keeps the ground truth (what was submitted, what runs where) and checks the
// cores against it after every step: see `check`.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "broker/scheduler.hpp"
#include "common/codec.hpp"
#include "producer/collector.hpp"
#include "producer/session.hpp"
#include "tests/support/blob_set.hpp"
#include "worker/agent.hpp"

namespace muster::simulator {

// What may go wrong; every seed draws a subset.
struct Faults {
  bool link_breaks = false;     // connections break and lose what was in flight
  bool partitions = false;      // … and stay away longer than the heartbeats bear
  bool worker_crashes = false;  // a worker dies with all it knows; a new one comes
  bool broker_crashes = false;  // the broker dies and starts again with a new incarnation
  bool poison = false;          // some tasks kill their worker whenever they run
  bool errors = false;          // some tasks fail, at first or always
  bool cancels = false;
  bool caps = false;       // some jobs may only have a few leases at once
  bool output = false;     // tasks say lines
  bool resources = false;  // jobs ask for cores, memory and accelerators
  bool pauses = false;     // workers pause for a while
  bool blobs = false;      // tasks and jobs name blobs, which workers fetch and lose
};

struct Plan {
  std::uint64_t seed = 0;
  Faults faults;
  std::uint32_t workers = 2;
  std::uint32_t producers = 1;
  std::uint32_t jobs_per_producer = 2;
  std::uint64_t tasks_per_job = 100;
  std::uint32_t max_slots = 3;
  std::uint64_t credit_tasks = 1000;
  Duration max_task{};
  Duration max_delay{};
  Duration max_transfer{};  // of a blob
  Duration chaos{};         // faults happen until then

  static Plan draw(std::uint64_t seed);
  std::string describe() const;
};

// What the run was made of; a test that never saw a retry proves nothing about retries.
struct Coverage {
  std::map<std::string, std::uint64_t> counts;
};

class World {
 public:
  explicit World(const Plan& plan);
  ~World();

  // Runs to the end: chaos, healing, quiet. Returns what went wrong; empty: nothing.
  std::string run();
  const Coverage& coverage() const { return coverage_; }
  // A digest of every event in order: equal for equal seeds.
  std::uint64_t digest() const { return digest_; }

 private:
  struct Link;      // one end's connection to the broker
  struct Worker;    // agent and executor
  struct Producer;  // session and its jobs
  struct Task;      // ground truth of one task
  using Action = std::function<void()>;

  // --- Clock and chance
  void after(Duration delay, Action action);
  std::uint64_t random(std::uint64_t below);
  bool chance(double probability);
  Duration random_duration(Duration below);
  void fail(const std::string& what);
  void count(const std::string& what, std::uint64_t more = 1) { coverage_.counts[what] += more; }

  // --- Network
  void connect(Link& link);
  void break_link(Link& link, Duration away);
  void to_broker(Link& link, const Message& message);
  void deliver_to_broker(Link& link, std::uint64_t connection, const Frames& frames);
  void deliver_to_peer(Link& link, std::uint64_t connection, const Frames& frames);
  void pump_broker();

  // --- Broker
  void start_broker();
  void crash_broker();

  // --- Workers
  void start_worker(std::uint32_t number);
  void crash_worker(std::uint32_t number);
  void pump_worker(Worker& worker);
  void run_next(Worker& worker);
  void start_task(Worker& worker, TaskStart&& start);
  void check_room(const Worker& worker);
  void pause_worker(std::uint32_t number);
  void end_task(Worker& worker, const Lease& lease, bool stopped);
  Outcome outcome_of(const Lease& lease, const Payload& payload);

  // --- Blobs
  BlobName blob_of(std::uint64_t number) const;
  Payload with_names(std::uint32_t job, std::uint64_t sequence, Payload body) const;
  void need_blobs(Producer& producer, const Payload& payload);
  void let_go_of_blobs(Producer& producer, const Payload& payload);
  void answer_blobs(Producer& producer, const std::vector<BlobAnswer>& answers);
  void pull_results(Link& link, const Message& message);
  void check_result_blobs(Producer& producer, const Payload& body);
  void carry_blobs(Worker& worker, const std::vector<BlobRequest>& requests);
  void end_fetch(Worker& worker, const BlobId& id);
  void evict(Worker& worker, const BlobId& id);
  void check_blobs(const Worker& worker, const Payload& payload);

  // --- Producers
  void start_producer(std::uint32_t number);
  void feed(Producer& producer);
  void pump_producer(Producer& producer);
  void check_output(Producer& producer, const message::Output& output);
  void check_outcome(Producer& producer, std::uint32_t job, const Collected& collected);
  bool finished() const;

  // --- Chaos
  void schedule_chaos();
  void schedule_ticks();
  void check();
  void check_caps();
  std::string missing() const;

  Plan plan_;
  std::mt19937_64 generator_;
  Time now_{0};
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
  std::uint64_t result_blobs_ = 0;
  std::uint64_t incarnations_ = 0;
  std::uint64_t worker_starts_ = 0;
  std::uint64_t next_peer_ = 1;
  std::map<std::uint64_t, Link*> peers_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Worker>> buried_;  // events may still name them
  std::vector<std::unique_ptr<Producer>> producers_;
  std::map<std::tuple<SessionId, std::uint32_t, std::uint64_t>, std::uint32_t> running_;
  std::map<std::tuple<SessionId, std::uint32_t, std::uint64_t>, std::uint32_t> runs_;
  bool healing_ = false;
  std::string failure_;
  Coverage coverage_;
  std::uint64_t digest_ = 14695981039346656037ULL;
};

}  // namespace muster::simulator
