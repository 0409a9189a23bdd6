#include "broker/blobs/blob_server.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "broker/door/log_limit.hpp"
#include "broker/door/outbox.hpp"
#include "common/protocol/codec.hpp"

namespace muster {
namespace {

// Of all workers, in one turn of the loop: about a millisecond.
constexpr int kChunksPerTurn = 4;
// A worker may ask for a few more than it should; beyond that it breaks the protocol.
constexpr std::size_t kMostWants = 4 * limits::kBlobChunksAhead;
// It has to echo a mark after so many chunks, and may be behind by so many.
constexpr std::uint32_t kChunksPerMark = limits::kBlobChunksAhead;
constexpr std::uint32_t kMostUnread = 4 * limits::kBlobChunksAhead;
constexpr std::size_t kBuffers = 64;
constexpr Duration kReview = std::chrono::milliseconds(250);
// A worker whose link is alive and that sends nothing that it owes: it is to connect anew.
constexpr Duration kSilence = std::chrono::seconds(30);

bool names_blobs(const message::WorkerOutcomes& said) {
  return std::any_of(said.runs.begin(), said.runs.end(), [](const OutcomeRun& run) {
    return std::any_of(run.outcomes.begin(), run.outcomes.end(),
                       [](const Outcome& outcome) { return outcome.body.blobs > 0; });
  });
}

}  // namespace

class BlobServer::Books : public OutcomeBooks {
 public:
  explicit Books(const Scheduler& scheduler) : scheduler_(scheduler) {}
  bool expects(const WorkerId& worker, const message::WorkerOutcomes& outcome) const override {
    const OutcomeRun& run = outcome.runs.front();
    return scheduler_.expects_outcome(worker, outcome.session, outcome.job, run.first, run.attempt);
  }
  bool is_connected(const WorkerId& worker) const override {
    return scheduler_.worker_named(worker).has_value();
  }
  bool shares(const WorkerId& worker) const override {
    const auto named = scheduler_.worker_named(worker);
    return named && named->shares;
  }

 private:
  const Scheduler& scheduler_;
};

BlobServer::BlobServer(BlobStore& store, Scheduler& scheduler, Router& router)
    : store_(store),
      scheduler_(scheduler),
      router_(router),
      books_(std::make_unique<Books>(scheduler)) {
  if (store.folder() != nullptr) pulls_.emplace(*store.folder(), *books_);
}
BlobServer::~BlobServer() = default;

bool BlobServer::hear(PeerId peer, Message& message, Time now, const RemoteUser* user,
                      const LocalUser& local) {
  if (const auto* hello = std::get_if<message::HelloBulk>(&message)) {
    greet(peer, *hello, now, user, local);
    return true;
  }
  const auto found = peers_.find(peer);
  if (found != peers_.end()) {
    hear_bulk(peer, found->second, message, now);
    return true;
  }
  auto* said = std::get_if<message::WorkerOutcomes>(&message);
  if (said == nullptr || !pulls_ || !names_blobs(*said)) return false;
  const auto worker = scheduler_.worker_at(peer);
  if (!worker) return false;
  *said = pulls_->take(worker->id, std::move(*said), now);
  return false;  // also without any outcome left it says that the worker lives
}

void BlobServer::greet(PeerId peer, const message::HelloBulk& hello, Time now,
                       const RemoteUser* user, const LocalUser& local) {
  if (scheduler_.knows(peer)) {  // also one that was refused, which is told once
    refuse(peer, message::RefuseCode::identity,
           "one connection cannot be a bulk connection and something else", now);
    return;
  }
  if (user != nullptr && !user->is_admitted) {
    refuse(peer, message::RefuseCode::identity, user->name + " is no longer authorized here", now);
    return;
  }
  if (hello.protocol_version != limits::kProtocolVersion) {
    refuse(peer, message::RefuseCode::version,
           "a bulk connection of another protocol version; install the same muster on both sides",
           now);
    return;
  }
  const std::string user_name = user == nullptr ? local.name : user->name;
  const auto worker = scheduler_.worker_named(hello.worker);
  if (worker && worker->user != user_name) {
    refuse(peer, message::RefuseCode::identity, "this worker id is another user's", now);
    return;
  }
  const auto known = peers_.find(peer);
  if (known != peers_.end() && known->second.worker != hello.worker) {
    refuse(peer, message::RefuseCode::identity, "one connection cannot be two workers", now);
    return;
  }
  if (!worker) {
    router_.send(peer, encode(message::Unknown{scheduler_.options().incarnation}, Packing::never));
    return;
  }
  const auto before = by_worker_.find(hello.worker);
  if (before != by_worker_.end() && before->second != peer) forget(before->second, now);
  Peer& its = peers_[peer] = {};
  its.worker = hello.worker;
  its.user = user_name;
  its.is_remote = user != nullptr;
  by_worker_[hello.worker] = peer;
  message::Welcome answer;
  answer.software_version = scheduler_.options().software_version;
  answer.incarnation = scheduler_.options().incarnation;
  answer.heartbeat_interval = scheduler_.options().heartbeat_interval;
  answer.heartbeat_misses = scheduler_.options().heartbeat_misses;
  answer.pack = its.is_remote;
  if (user != nullptr) answer.proof = user->proof;
  if (send(peer, answer, now) && pulls_) pulls_->connected(hello.worker, now);
}

void BlobServer::hear_bulk(PeerId id, Peer& peer, Message& message, Time now) {
  if (const auto* wanted = std::get_if<message::BlobWant>(&message)) {
    want(id, peer, *wanted, now);
  } else if (const auto* chunk = std::get_if<message::BlobChunk>(&message)) {
    if (pulls_ && !pulls_->receive(peer.worker, *chunk, now)) scheduler_.count("chunks_unwanted");
  } else if (const auto* gone = std::get_if<message::BlobGone>(&message)) {
    if (pulls_) pulls_->receive(peer.worker, *gone);
  } else if (const auto* beat = std::get_if<message::Heartbeat>(&message)) {
    if (beat->reply_wanted) {
      // Counted like a chunk: it is no way around the limit of what is not read.
      if (peer.unread < kMostUnread) {
        ++peer.unread;
        ++peer.since_mark;
        send(id, message::Heartbeat{beat->token, false}, now);
      }
    } else if (peer.mark != 0 && beat->token == peer.mark) {
      peer.unread = peer.since_mark;
      peer.mark = 0;
    }
  } else if (std::holds_alternative<message::Goodbye>(message)) {
    forget(id, now);
  } else {
    refuse(id, message::RefuseCode::out_of_order,
           std::string(name_of(message)) + " is not a message of a bulk connection", now);
  }
}

void BlobServer::want(PeerId id, Peer& peer, const message::BlobWant& want, Time now) {
  if (peer.wants.size() >= kMostWants) {
    refuse(id, message::RefuseCode::over_limit,
           "more than " + std::to_string(kMostWants) + " chunks asked for at once", now);
    return;
  }
  peer.wants.push_back(want);
}

void BlobServer::refuse(PeerId peer, message::RefuseCode code, const std::string& text, Time now) {
  forget(peer, now);
  scheduler_.refuse_bulk(peer, code, text, now);
}

void BlobServer::forget(PeerId peer, Time now) {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return;
  const WorkerId worker = found->second.worker;
  peers_.erase(found);
  const auto its = by_worker_.find(worker);
  if (its == by_worker_.end() || its->second != peer) return;
  by_worker_.erase(its);
  if (pulls_) pulls_->disconnected(worker, now);
}

// --- Sending ------------------------------------------------------------------------------------

bool BlobServer::send(PeerId id, const Message& message, Time now) {
  const auto peer = peers_.find(id);
  const bool is_remote = peer != peers_.end() && peer->second.is_remote;
  const SendResult result =
      router_.send(id, encode(message, is_remote ? Packing::when_smaller : Packing::never));
  if (result == SendResult::sent) return true;
  if (is_worth_a_line(++departures_)) {
    spdlog::info("bulk connection {:x} is {} ({} so far)", static_cast<std::uint64_t>(id),
                 result == SendResult::gone ? "gone" : "not reading and given up", departures_);
  }
  forget(id, now);
  return false;
}

// One that ZeroMQ has let go of: large buffers cost more to get from the kernel than to fill.
std::shared_ptr<std::byte[]> BlobServer::free_buffer() {
  for (auto& buffer : buffers_) {
    if (buffer.use_count() == 1) {
      std::atomic_thread_fence(std::memory_order_acquire);
      return buffer;
    }
  }
  auto made = std::make_shared_for_overwrite<std::byte[]>(limits::kBlobChunkBytes);
  if (buffers_.size() < kBuffers) buffers_.push_back(made);
  return made;
}

bool BlobServer::serve(PeerId id, Peer& peer, const message::BlobWant& want, Time now) {
  std::shared_ptr<std::byte[]> buffer = free_buffer();
  std::string error = "this broker keeps no blobs";
  if (store_.folder() != nullptr) {
    error = store_.folder()->read(want.blob, want.offset, {buffer.get(), want.bytes});
  }
  ++peer.unread;
  ++peer.since_mark;
  if (!error.empty()) return send(id, message::BlobGone{want.blob, std::move(error)}, now);
  const std::span<const std::byte> view(buffer.get(), want.bytes);
  const Packing packing = peer.is_remote ? Packing::when_smaller : Packing::never;
  Payload content = pack_payload(Bytes(std::move(buffer), view), packing);
  sent_bytes_ += want.bytes;
  return send(id, message::BlobChunk{want.blob, want.offset, std::move(content)}, now);
}

// One chunk for each that waits for some, beginning behind the one that was served last.
void BlobServer::serve(Time now) {
  std::vector<PeerId> waiting;
  for (auto& [id, peer] : peers_) {
    if (!peer.wants.empty() && peer.unread < kMostUnread) waiting.push_back(id);
  }
  const auto next = std::upper_bound(waiting.begin(), waiting.end(), served_last_);
  std::rotate(waiting.begin(), next, waiting.end());
  if (waiting.size() > kChunksPerTurn) waiting.resize(kChunksPerTurn);
  for (const PeerId id : waiting) {
    Peer& peer = peers_.at(id);
    const message::BlobWant want = peer.wants.front();
    peer.wants.pop_front();
    served_last_ = id;
    if (!serve(id, peer, want, now)) continue;
    if (peer.since_mark < kChunksPerMark || peer.mark != 0) continue;
    peer.mark = new_mark();
    peer.since_mark = 0;
    send(id, message::Heartbeat{peer.mark, true}, now);
  }
}

// --- Turns --------------------------------------------------------------------------------------

void BlobServer::give_ready(Time now) {
  for (BlobPulls::Ready& ready : pulls_->take_ready()) {
    scheduler_.deliver(ready.worker, std::move(ready.outcome), now);
    pulls_->done(ready.pinned);
  }
}

void BlobServer::turn(Time now) {
  if (now >= next_review_) review(now);
  serve(now);
  if (!pulls_) return;
  for (const auto& [worker, want] : pulls_->take_wants(now)) {
    const auto peer = by_worker_.find(worker);
    if (peer != by_worker_.end()) send(PeerId(peer->second), want, now);
  }
  give_ready(now);
}

// A peer that is no longer a worker here has no bulk connection either.
void BlobServer::review(Time now) {
  next_review_ = now + kReview;
  std::vector<PeerId> gone;
  for (const auto& [id, peer] : peers_) {
    const auto worker = scheduler_.worker_named(peer.worker);
    if (!worker || worker->user != peer.user) gone.push_back(id);
  }
  if (pulls_) {
    for (const WorkerId& worker : pulls_->silent(now - kSilence)) {
      const auto peer = by_worker_.find(worker);
      if (peer != by_worker_.end()) gone.push_back(peer->second);
    }
    pulls_->tick(now);
  }
  for (const PeerId id : gone) {  // it says HELLO_BULK again, if it is to have one
    forget(id, now);
    router_.send(id, encode(message::Unknown{scheduler_.options().incarnation}, Packing::never));
  }
  if (BlobFolder* folder = store_.folder()) {
    scheduler_.set_gauge("blobs", folder->count());
    scheduler_.set_gauge("blob_bytes_memory", folder->memory_bytes());
    scheduler_.set_gauge("blob_bytes_disk", folder->disk_bytes());
    scheduler_.set_gauge("blob_bytes_sent", sent_bytes_);
    scheduler_.set_gauge("blob_bytes_received", pulls_->received_bytes());
    scheduler_.set_gauge("outcomes_waiting_for_blobs", pulls_->held());
  }
}

bool BlobServer::has_work() const {
  return std::any_of(peers_.begin(), peers_.end(), [](const auto& entry) {
    return !entry.second.wants.empty() && entry.second.unread < kMostUnread;
  });
}

Time BlobServer::next_deadline() const { return has_work() ? Time{0} : next_review_; }

}  // namespace muster
