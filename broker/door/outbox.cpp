#include "broker/door/outbox.hpp"

#include <algorithm>
#include <random>
#include <utility>
#include <variant>

#include "common/protocol/codec.hpp"

namespace muster {
namespace {

// A mark for so many bytes: on a fast link a few per second.
constexpr std::uint64_t kMarkBytes = std::uint64_t{1} << 20;
// As much as the most prefetch of a worker: a link of 100 MB/s and 300 ms stays busy.
constexpr std::uint64_t kWindowBytes = std::uint64_t{32} << 20;
// Answers and job descriptions that wait for their reader.
constexpr std::uint64_t kMostWaitingBytes = std::uint64_t{64} << 20;
// With so many unread of all peers each gets less.
constexpr std::uint64_t kManyBytes = std::uint64_t{128} << 20;
constexpr std::uint64_t kScarce = 16;  // … one part in so many
constexpr std::size_t kMostWaitingMessages = 20'000;
constexpr std::uint32_t kMostStatusRequests = 1'000;
// What a message that waits takes beside payloads that it shares with others.
constexpr std::uint64_t kMessageBytes = 256;

constexpr Duration kPatience = std::chrono::minutes(1);
constexpr Duration kReview = kPatience / 4;

std::uint64_t size_of(const Frames& frames) {
  std::uint64_t bytes = 0;
  for (const Bytes& frame : frames) bytes += frame.size();
  return bytes;
}

// What `message` alone keeps in memory while it waits, about.
std::uint64_t own_bytes(const Message& message) {
  std::uint64_t bytes = kMessageBytes;
  if (const auto* answer = std::get_if<message::StoreAnswer>(&message)) {
    bytes += answer->reply.value.size() + answer->reply.text.size();
    for (const auto& entry : answer->reply.entries) bytes += kMessageBytes + entry.key.size();
  } else if (const auto* outcomes = std::get_if<message::Outcomes>(&message)) {
    for (const OutcomeRun& run : outcomes->runs) bytes += run.outcomes.size() * sizeof(Outcome);
  } else if (const auto* answers = std::get_if<message::BlobAnswers>(&message)) {
    for (const BlobAnswer& about : answers->blobs) bytes += kMessageBytes + about.text.size();
  }
  return bytes;
}

}  // namespace

std::uint64_t new_mark() {
  std::random_device random;
  return (std::uint64_t{random()} << 32 | random()) | 1;
}

Outbox::Outbox(Router& router) : router_(router) {}
Outbox::~Outbox() = default;

std::uint64_t Outbox::window() const {
  return unread_bytes_ < kManyBytes ? kWindowBytes : kWindowBytes / kScarce;
}

std::uint64_t Outbox::most_waiting() const {
  return unread_bytes_ < kManyBytes ? kMostWaitingBytes : kMostWaitingBytes / kScarce;
}

SendResult Outbox::send(PeerId id, Message&& message, Time now) {
  Peer& peer = peers_[id];
  // It begins anew: what it still needs it asks for, or is sent again.
  if (std::holds_alternative<message::Welcome>(message)) {
    drop_waiting(peer);
    peer.status_requests = 0;
  }
  if (peer.is_full) return SendResult::full;
  if (peer.waiting.empty() && peer.unread < window()) return pass(id, peer, message, now);
  if (std::holds_alternative<message::Output>(message)) return SendResult::full;
  if (std::holds_alternative<message::Heartbeat>(message)) return SendResult::sent;  // not missed
  wait(peer, std::move(message));
  if (peer.waiting_bytes <= most_waiting() && peer.waiting.size() <= kMostWaitingMessages) {
    return SendResult::sent;
  }
  drop_waiting(peer);
  peer.is_full = true;
  return SendResult::full;
}

SendResult Outbox::pass(PeerId id, Peer& peer, const Message& message, Time now) {
  // On this machine copying is faster than lz4.
  const Packing packing = router_.is_remote(id) ? Packing::when_smaller : Packing::never;
  Frames frames = encode(message, packing);
  const std::uint64_t bytes = size_of(frames);
  const SendResult result = router_.send(id, std::move(frames));
  if (result == SendResult::gone) forget(id);
  if (result != SendResult::sent) return result;
  peer.unread += bytes;
  peer.since_mark += bytes;
  unread_bytes_ += bytes;
  const bool is_status = std::holds_alternative<message::Status>(message);
  if (is_status) peer.status_asked = false;
  peer.status_sent |= is_status;
  peer.status_since_mark |= is_status;
  if (peer.mark == 0 && (is_status || peer.since_mark >= kMarkBytes)) mark(id, peer, now);
  return SendResult::sent;
}

void Outbox::mark(PeerId id, Peer& peer, Time now) {
  const std::uint64_t token = new_mark();
  if (router_.send(id, encode(message::Heartbeat{token, true}, Packing::never)) !=
      SendResult::sent) {
    return;  // the next message tells
  }
  peer.mark = token;
  peer.since_mark = 0;
  peer.status_since_mark = false;
  peer.moved = now;
}

bool Outbox::heard(PeerId id, const message::Heartbeat& beat, Time now) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return false;
  Peer& peer = found->second;
  if (beat.reply_wanted || peer.mark == 0 || beat.token != peer.mark) return false;
  unread_bytes_ -= peer.unread - peer.since_mark;
  peer.unread = peer.since_mark;
  peer.mark = 0;
  peer.is_full = false;
  peer.moved = now;
  peer.status_sent = peer.status_since_mark;
  if (peer.status_sent || peer.since_mark >= kMarkBytes) mark(id, peer, now);
  if (!go_on(id, peer, now)) return true;
  const bool may_have_status = !peer.status_asked && !peer.status_sent && peer.waiting.empty();
  if (may_have_status && peer.status_requests > 0) {
    --peer.status_requests;
    peer.status_asked = true;
    due_requests_.push_back(id);
  }
  return true;
}

// Whether the peer is still there.
bool Outbox::go_on(PeerId id, Peer& peer, Time now) {
  while (!peer.waiting.empty() && peer.unread < window()) {
    const Message message = std::move(peer.waiting.front());
    peer.waiting.pop_front();
    const std::uint64_t bytes = own_bytes(message);
    peer.waiting_bytes -= bytes;
    unread_bytes_ -= bytes;
    const SendResult result = pass(id, peer, message, now);
    if (result == SendResult::sent) continue;
    lost_.emplace_back(id, result);
    if (result == SendResult::gone) return false;
    drop_waiting(peer);
  }
  return true;
}

void Outbox::wait(Peer& peer, Message&& message) {
  const std::uint64_t bytes = own_bytes(message);
  peer.waiting_bytes += bytes;
  unread_bytes_ += bytes;
  peer.waiting.push_back(std::move(message));
}

void Outbox::drop_waiting(Peer& peer) {
  unread_bytes_ -= std::exchange(peer.waiting_bytes, 0);
  peer.waiting.clear();
  peer.status_asked = false;
}

bool Outbox::may_have_status(PeerId id) {
  Peer& peer = peers_[id];
  if (!peer.status_asked && !peer.status_sent && peer.waiting.empty()) {
    peer.status_asked = true;
    return true;
  }
  peer.status_requests = std::min(peer.status_requests + 1, kMostStatusRequests);
  return false;
}

std::vector<PeerId> Outbox::take_due_requests() { return std::exchange(due_requests_, {}); }

// A peer that was sent little, and nothing for a while, is forgotten; a mark that does not come
// back is sent again, which tells whether the connection is still there.
std::vector<std::pair<PeerId, SendResult>> Outbox::take_lost(Time now) {
  if (now < next_review_) return std::exchange(lost_, {});
  next_review_ = now + kReview;
  std::vector<PeerId> idle;
  std::vector<PeerId> gone;
  for (auto& [id, peer] : peers_) {
    if (peer.moved == Time{0}) peer.moved = now;
    const Duration silence = now - peer.moved;
    if (peer.mark == 0) {
      if (silence >= kPatience) idle.push_back(id);
      continue;
    }
    if (silence < kReview) continue;
    const Frames again = encode(message::Heartbeat{peer.mark, true}, Packing::never);
    const SendResult result = router_.send(id, again);
    if (result == SendResult::gone) {
      gone.push_back(id);
    } else if (silence >= kPatience && !peer.waiting.empty()) {
      drop_waiting(peer);
      peer.is_full = true;
      lost_.emplace_back(id, SendResult::full);
    }
  }
  for (const PeerId id : idle) forget(id);
  for (const PeerId id : gone) {
    forget(id);
    lost_.emplace_back(id, SendResult::gone);
  }
  return std::exchange(lost_, {});
}

void Outbox::forget(PeerId id) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return;
  unread_bytes_ -= found->second.unread + found->second.waiting_bytes;
  peers_.erase(found);
}

}  // namespace muster
