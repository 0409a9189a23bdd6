// Outcomes whose blobs are with a worker that does not share the broker's folders: they wait here
// until the broker has fetched those, chunk by chunk. Blobs that a worker of this machine left in
// the incoming folders are taken at once, or as soon as there is room for them.
//
// Owner: BlobServer. Threads: the broker's loop. Blocking: on input and output of single chunks.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "broker/blobs/chunk_requests.hpp"
#include "common/blobs/blob_folder.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

// What the pulls ask of the scheduler, at the moment of the call.
class OutcomeBooks {
 public:
  virtual ~OutcomeBooks() = default;
  virtual bool expects(const WorkerId& worker, const message::WorkerOutcomes& outcome) const = 0;
  virtual bool is_connected(const WorkerId& worker) const = 0;
  virtual bool shares(const WorkerId& worker) const = 0;
};

class BlobPulls {
 public:
  // Chunks that are asked for and not here, of all workers: bounds what waits in memory.
  static constexpr std::size_t kMostChunks = 8 * limits::kBlobChunksAhead;
  // A worker that does not open its bulk connection, or room that does not become free.
  static constexpr Duration kPatience = std::chrono::seconds(60);

  struct Ready {  // an outcome that may go on; then call done() with `pinned`
    WorkerId worker;
    message::WorkerOutcomes outcome;
    std::vector<BlobId> pinned;
  };

  // Both outlive this.
  BlobPulls(BlobFolder& folder, const OutcomeBooks& books) : folder_(folder), books_(books) {}

  // What a worker said. Returns the part without blobs; the rest comes out of take_ready().
  message::WorkerOutcomes take(const WorkerId& worker, message::WorkerOutcomes&& said, Time now);
  // Its bulk connection is there (again): what was not answered is asked for anew.
  void connected(const WorkerId& worker, Time now);
  void disconnected(const WorkerId& worker, Time now);
  // False: it was not asked for, or is not what was asked for.
  bool receive(const WorkerId& worker, const message::BlobChunk& chunk, Time now);
  bool receive(const WorkerId& worker, const message::BlobGone& gone);

  std::vector<std::pair<WorkerId, message::BlobWant>> take_wants(Time now);
  std::vector<Ready> take_ready() { return std::exchange(ready_, {}); }
  void done(const std::vector<BlobId>& pinned);

  // Drops what belongs to workers that are gone, and gives up what takes too long.
  void tick(Time now);
  // Workers that owe chunks and have been silent since `before`.
  std::vector<WorkerId> silent(Time before) const;
  std::size_t held() const;
  std::uint64_t received_bytes() const { return received_bytes_; }

 private:
  static constexpr const char* kLost = "blob_lost";

  using LeaseKey = std::tuple<SessionId, JobId, TaskSequence, Attempt>;
  struct Held {
    message::WorkerOutcomes outcome;  // one
    std::vector<BlobName> missing;    // in the order in which they are fetched
    std::vector<BlobName> left;       // ... and those that lie in the incoming folders
    std::vector<BlobId> pinned;
    Time since{0};
  };
  struct Worker {
    std::map<LeaseKey, Held> held;
    std::deque<LeaseKey> order;
    ChunkRequests chunks;
    bool connected = false;
    Time away_since{0};  // while it is not
    Time heard{0};
    Time no_room_since = kNever;
    std::deque<LeaseKey> crowded;  // those with `left`, in this order; some may be gone
  };

  void hold(const WorkerId& id, const message::WorkerOutcomes& said, const OutcomeRun& run,
            std::size_t index, Duration busy, Time now);
  std::string find_blobs(const WorkerId& id, Held& held, const Payload& body);
  bool must_wait(const WorkerId& id, const BlobName& name);
  std::string take_left(const WorkerId& id, Held& held);
  void take_all_left(const WorkerId& id, Worker& worker, Time now);
  void discard(const WorkerId& id, const Held& held);
  void go_on(const WorkerId& id, Held&& held);
  void fail(const WorkerId& id, Worker& worker, const LeaseKey& key, const char* kind,
            const std::string& why);
  void fail_all_with(const WorkerId& id, Worker& worker, const BlobId& blob, const char* kind,
                     const std::string& why);
  void remove(Worker& worker, const LeaseKey& key);
  void finish(const WorkerId& id, Worker& worker, const BlobName& name);
  void arrived(const WorkerId& id, Worker& worker, const BlobName& name);
  bool start_pull(const WorkerId& id, Worker& worker, Time now);
  bool ask_next(const WorkerId& id, Worker& worker, Time now, message::BlobWant& want);
  void review(const WorkerId& id, Worker& worker, Time now);
  void end_pull(Worker& worker, const BlobId& blob, bool abandon);
  void drop(const WorkerId& id, Worker& worker);

  BlobFolder& folder_;
  const OutcomeBooks& books_;
  std::map<WorkerId, Worker> workers_;
  WorkerId first_;  // whom take_wants() asks first
  std::vector<Ready> ready_;
  std::size_t pending_ = 0;  // chunks, of all
  std::uint64_t received_bytes_ = 0;
};

}  // namespace muster
