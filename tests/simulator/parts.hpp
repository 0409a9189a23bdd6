// The inhabitants of the world: links, workers with a pretended executor, producers. Private to the
// simulator's sources.
#pragma once

#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "common/resources.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {

struct World::Link {
  bool up = false;
  bool dead = false;             // its owner crashed: never comes back
  std::uint64_t connection = 0;  // counts up at every connect and break
  std::uint64_t peer = 0;        // how the broker names this connection
  Time last_to_broker{0};
  Time last_to_peer{0};
  std::function<void()> on_connected;
  std::function<void(Message&&)> on_message;
};

struct World::Worker {
  Worker(std::uint32_t number_in, AgentOptions options)
      : number(number_in),
        slots(options.slots),
        shape{options.slots, options.cores, options.memory_bytes, options.gpus},
        agent(std::move(options)) {}
  std::uint32_t number;
  std::uint32_t slots;
  Shape shape;
  Agent agent;
  Link link;
  std::deque<TaskStart> waiting;  // given to the executor, not started
  std::vector<std::pair<Lease, Payload>> running;
  struct Taken {
    std::uint32_t width = 1;
    std::vector<std::uint32_t> devices;
  };
  std::map<std::tuple<SessionId, std::uint32_t, std::uint64_t>, Taken> taken;  // by the running
  bool shares = false;      // the broker's folders
  std::set<BlobId> cache;   // blobs that are here
  std::set<BlobId> needed;  // … that the agent asked for and has not released
};

enum class Kind : std::uint8_t { normal, fails_once, fails_always, poison };

// Ground truth of one task, by sequence.
struct World::Task {
  Kind kind = Kind::normal;
  bool cancelled = false;
  bool delivered = false;
};

struct World::Producer {
  struct JobTruth {
    JobTruth(JobId id_in, Order order_in, std::uint64_t total_in)
        : id(id_in),
          total(total_in),
          collector(order_in, 64, std::size_t{1} << 20),
          order(order_in) {}
    JobId id;
    std::uint64_t total;
    Collector collector;
    std::vector<Task> truth;
    std::uint64_t next_expected = 0;
    Order order;
    bool ended = false;
    std::uint32_t cap = 0;  // JobSpec::max_running
    bool loud = false;      // it asked for output
  };
  explicit Producer(SessionOptions options) : id(options.session), session(std::move(options)) {}
  void cancel_something(std::uint64_t dice) {
    JobTruth& job = *jobs[dice % jobs.size()];
    if (job.truth.empty()) return;
    const std::uint64_t sequence = dice % job.truth.size();
    job.truth[sequence].cancelled = true;
    session.cancel(job.id, TaskSequence{sequence});
  }
  SessionId id;
  Session session;
  Link link;
  std::map<BlobId, std::uint32_t> needed;  // tasks without outcome and jobs that name it
  std::vector<std::unique_ptr<JobTruth>> jobs;
};

}  // namespace muster::simulator
