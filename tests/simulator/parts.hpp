// The inhabitants of the world: connections, workers with a pretended executor, producers. Private
// to the simulator's sources.
#pragma once

#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/resources.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {

// One end's connections to the broker, one after the other, and whether its process goes on.
struct World::Link {
  Worker* worker = nullptr;      // its owner is this one …
  Producer* producer = nullptr;  // … or this one
  bool up = false;
  bool dead = false;             // its owner is gone: never comes back
  bool still = false;            // its owner stands still
  bool mute = false;             // what it says is lost …
  bool deaf = false;             // … or what it is told, and nobody knows
  std::uint64_t connection = 0;  // counts up at every connect and break
  std::uint64_t peer = 0;        // how the broker names this connection
  std::uint64_t late = 0;       // a broken connection whose messages still arrive at the broker …
  std::uint64_t late_here = 0;  // … or here
  Time last_to_broker{0};
  Time last_to_peer{0};
  Time heard{0};                // when the broker last got something
  std::vector<Frames> unsent;   // said while it was away: the next connection begins with it
  std::deque<Action> happened;  // while it stood still, in order
  std::function<void()> on_connected;
  std::function<void(Message&&)> on_message;
};

struct World::Worker {
  Worker(std::uint32_t number_in, AgentOptions options)
      : number(number_in),
        slots(options.slots),
        id(options.worker),
        shape{options.slots, options.cores, options.memory_bytes, options.gpus},
        agent(std::move(options)) {}
  std::uint32_t number;
  std::uint32_t slots;
  WorkerId id;
  Shape shape;
  Agent agent;
  Link link;
  std::deque<TaskStart> waiting;  // given to the executor, not started
  std::vector<std::pair<Lease, Payload>> running;
  struct Taken {
    std::uint32_t width = 1;
    std::vector<std::uint32_t> devices;
  };
  std::map<Audit::TaskName, Taken> taken;  // by the running
  std::set<Audit::TaskName> begun;         // all that it ever ran
  bool seen = false;                       // the present broker has it among its workers
  // It was out of sight: what it holds may have been given to others, until it is told so.
  bool in_doubt = false;
  // Leases of its last HELLO that nobody needs, which the broker cannot know: it knows nothing of
  // the job, and waits for the producer. So nobody told this worker to stop.
  std::set<Audit::TaskName> untold;
  Time doubt_ends{0};
  Time leaves_at = kNever;  // it drains, and goes then at the latest
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
    bool finished() const { return truth.size() == total && collector.finished(); }
    JobId id;
    std::uint64_t total;
    Collector collector;
    std::vector<Task> truth;
    std::uint64_t next_expected = 0;
    Order order;
    bool ended = false;
    Payload body;           // its function's
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
  bool gone = false;                       // it said GOODBYE or died before it was done
  std::map<BlobId, std::uint32_t> needed;  // tasks without outcome and jobs that name it
  std::vector<std::unique_ptr<JobTruth>> jobs;
};

// What a task's arguments are: its own name and fate, and now and then more than fits into frame 0.
inline Payload payload_of(std::uint32_t job, std::uint64_t sequence, Kind kind) {
  std::string text = std::to_string(job) + ":" + std::to_string(sequence) + ":" +
                     std::to_string(static_cast<int>(kind)) + ":";
  if (sequence % 10 == 3) text.resize(limits::kLargePayloadBytes + sequence, 'x');
  return {Bytes::copy(text), 0};
}

inline Kind kind_in(const Payload& payload) {
  const Payload body = body_of(payload);
  const std::string_view text = body.bytes.text();
  const std::size_t second = text.find(':', text.find(':') + 1);
  return static_cast<Kind>(text[second + 1] - '0');
}

inline Audit::TaskName name_of(const Lease& lease) {
  return {lease.session, value(lease.job), value(lease.sequence)};
}

}  // namespace muster::simulator
