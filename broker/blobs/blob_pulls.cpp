#include "broker/blobs/blob_pulls.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"

namespace muster {
namespace {

constexpr const char* kTooLarge = "result_too_large";

bool contains(const std::vector<BlobName>& names, const BlobName& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The one outcome of a held message.
OutcomeRun& run_of(message::WorkerOutcomes& outcome) { return outcome.runs.front(); }

message::WorkerOutcomes one_of(const message::WorkerOutcomes& said, const OutcomeRun& run,
                               std::size_t index, Duration busy) {
  return {said.session, said.job, busy, {{run.first + index, run.attempt, {run.outcomes[index]}}}};
}

}  // namespace

message::WorkerOutcomes BlobPulls::take(const WorkerId& worker, message::WorkerOutcomes&& said,
                                        Time now) {
  std::size_t count = 0;
  for (const OutcomeRun& run : said.runs) count += run.outcomes.size();
  const Duration busy = said.busy / static_cast<std::int64_t>(std::max<std::size_t>(count, 1));
  message::WorkerOutcomes plain{said.session, said.job, Duration(0), {}};
  for (OutcomeRun& run : said.runs) {
    bool contiguous = false;  // with what `plain` has last
    for (std::size_t i = 0; i < run.outcomes.size(); ++i) {
      if (run.outcomes[i].body.blobs > 0) {
        hold(worker, said, run, i, busy, now);
        contiguous = false;
        continue;
      }
      if (!contiguous) plain.runs.push_back({run.first + i, run.attempt, {}});
      plain.runs.back().outcomes.push_back(std::move(run.outcomes[i]));
      plain.busy += busy;
      contiguous = true;
    }
  }
  return plain;
}

void BlobPulls::hold(const WorkerId& id, const message::WorkerOutcomes& said, const OutcomeRun& run,
                     std::size_t index, Duration busy, Time now) {
  Held held{one_of(said, run, index, busy), {}, {}, {}, now};
  const LeaseKey key{said.session, said.job, run.first + index, run.attempt};
  const auto known = workers_.find(id);
  if (known != workers_.end() && known->second.held.count(key) != 0) return;  // said again
  const Payload& body = run_of(held.outcome).outcomes.front().body;
  if (!books_.expects(id, held.outcome)) {  // late: the scheduler acknowledges and drops it
    discard(id, held);
    go_on(id, std::move(held));
    return;
  }
  const std::string error = find_blobs(id, held, Payload(body));
  if (known == workers_.end()) workers_[id].away_since = now;
  Worker& worker = workers_[id];
  const bool complete = held.missing.empty() && held.left.empty() && error.empty();
  const bool shares = !held.missing.empty() && books_.shares(id);
  if (complete) {
    go_on(id, std::move(held));
    return;
  }
  worker.order.push_back(key);
  if (!held.left.empty()) worker.crowded.push_back(key);
  worker.held.emplace(key, std::move(held));
  if (!error.empty()) fail(id, worker, key, kTooLarge, error);
  if (error.empty() && shares) {
    fail(id, worker, key, kLost, "the worker did not leave it in the broker's folder");
  }
}

// Takes what lies in the incoming folders, and notes what does not, or has no room now.
std::string BlobPulls::find_blobs(const WorkerId& id, Held& held, const Payload& body) {
  for (std::uint32_t i = 0; i < body.blobs; ++i) {
    const BlobName name = blob_at(body, i);
    if (!folder_.holds(name.id) && folder_.has_incoming(name.id, to_hex(id))) {
      if (must_wait(id, name)) {
        if (!contains(held.left, name)) held.left.push_back(name);
        continue;
      }
      std::string error = folder_.adopt_from(name, to_hex(id));
      if (!error.empty()) return error;
    }
    if (folder_.holds(name.id)) {  // of another size: nobody will find it under that name
      folder_.pin(name.id);
      held.pinned.push_back(name.id);
    } else if (!contains(held.missing, name)) {
      held.missing.push_back(name);
    }
  }
  return "";
}

void BlobPulls::go_on(const WorkerId& id, Held&& held) {
  ready_.push_back({id, std::move(held.outcome), std::move(held.pinned)});
}

void BlobPulls::fail(const WorkerId& id, Worker& worker, const LeaseKey& key, const char* kind,
                     const std::string& why) {
  const auto found = worker.held.find(key);
  if (found == worker.held.end()) return;
  Held held = std::move(found->second);
  remove(worker, key);
  discard(id, held);
  run_of(held.outcome).outcomes.front() =
      failed(OutcomeStatus::error, {kind, "the task's result did not arrive: " + why, "", {}});
  go_on(id, std::move(held));
}

void BlobPulls::fail_all_with(const WorkerId& id, Worker& worker, const BlobId& blob,
                              const char* kind, const std::string& why) {
  for (const LeaseKey& key : std::deque<LeaseKey>(worker.order)) {
    const auto& missing = worker.held.at(key).missing;
    const bool needs = std::any_of(missing.begin(), missing.end(),
                                   [&](const BlobName& name) { return name.id == blob; });
    if (needs) fail(id, worker, key, kind, why);
  }
}

void BlobPulls::remove(Worker& worker, const LeaseKey& key) {
  worker.held.erase(key);
  std::erase(worker.order, key);
}

void BlobPulls::done(const std::vector<BlobId>& pinned) {
  for (const BlobId& id : pinned) folder_.unpin(id, false, Time{});
}

// --- Blobs in the incoming folders ---------------------------------------------------------------

// What is larger than all room is not waited for.
bool BlobPulls::must_wait(const WorkerId& id, const BlobName& name) {
  return name.size_bytes <= folder_.largest_bytes() && !folder_.make_room_from(name, to_hex(id));
}

std::string BlobPulls::take_left(const WorkerId& id, Held& held) {
  while (!held.left.empty() && !must_wait(id, held.left.front())) {
    const BlobName name = held.left.front();
    std::string error = folder_.adopt_from(name, to_hex(id));
    if (!error.empty()) return error;
    folder_.pin(name.id);
    held.pinned.push_back(name.id);
    held.left.erase(held.left.begin());
  }
  return "";
}

// One after another: what is large finds room, too.
void BlobPulls::take_all_left(const WorkerId& id, Worker& worker, Time now) {
  while (!worker.crowded.empty()) {
    const LeaseKey key = worker.crowded.front();
    const auto found = worker.held.find(key);
    if (found != worker.held.end()) {
      const std::string error = take_left(id, found->second);
      if (!error.empty()) {
        fail(id, worker, key, kLost, error);
      } else if (!found->second.left.empty()) {
        worker.no_room_since = std::min(worker.no_room_since, now);
        return;
      } else if (found->second.missing.empty()) {
        Held complete = std::move(found->second);
        remove(worker, key);
        go_on(id, std::move(complete));
      }
    }
    worker.crowded.pop_front();
    worker.no_room_since = kNever;
  }
}

// The files of an outcome that nobody takes.
void BlobPulls::discard(const WorkerId& id, const Held& held) {
  const Payload& body = held.outcome.runs.front().outcomes.front().body;
  for (std::uint32_t i = 0; i < body.blobs; ++i) {
    folder_.discard_from(blob_at(body, i).id, to_hex(id));
  }
}

// --- Chunks -------------------------------------------------------------------------------------

void BlobPulls::connected(const WorkerId& id, Time now) {
  disconnected(id, now);
  Worker& worker = workers_[id];
  worker.connected = true;
  worker.heard = now;
}

// What came of a blob stays: the rest is asked for when the worker is back.
void BlobPulls::disconnected(const WorkerId& id, Time now) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return;
  Worker& worker = found->second;
  worker.connected = false;
  worker.away_since = now;
  pending_ -= worker.chunks.pending();
  worker.chunks.ask_again();
}

bool BlobPulls::receive(const WorkerId& id, const message::BlobChunk& chunk, Time now) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return false;
  Worker& worker = found->second;
  const auto content = unpack_payload(chunk.content);
  if (!content) return false;
  const auto taken = worker.chunks.take(chunk.blob, chunk.offset, content->size());
  if (taken == ChunkRequests::Taken::stranger) return false;
  worker.heard = now;
  --pending_;
  received_bytes_ += content->size();
  const std::string error = folder_.write(chunk.blob, chunk.offset, content->span());
  if (!error.empty()) {
    end_pull(worker, chunk.blob, true);
    fail_all_with(id, worker, chunk.blob, kTooLarge, error);
  } else if (taken == ChunkRequests::Taken::last) {
    finish(id, worker, BlobName(*worker.chunks.find(chunk.blob)));
  }
  return true;
}

bool BlobPulls::receive(const WorkerId& id, const message::BlobGone& gone) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return false;
  Worker& worker = found->second;
  if (!worker.chunks.awaits(gone.blob)) return false;
  end_pull(worker, gone.blob, true);
  fail_all_with(id, worker, gone.blob, kLost, "its worker lost it: " + gone.reason);
  return true;
}

// The blob is complete, and so are the outcomes that only it kept waiting.
void BlobPulls::finish(const WorkerId& id, Worker& worker, const BlobName& name) {
  const std::string error = folder_.finish(name.id);
  end_pull(worker, name.id, !error.empty());
  if (!error.empty()) {
    fail_all_with(id, worker, name.id, kLost, error);
  } else {
    arrived(id, worker, name);
  }
}

void BlobPulls::arrived(const WorkerId& id, Worker& worker, const BlobName& name) {
  for (const LeaseKey& key : std::deque<LeaseKey>(worker.order)) {
    Held& held = worker.held.at(key);
    if (std::erase(held.missing, name) == 0) continue;
    folder_.pin(name.id);
    held.pinned.push_back(name.id);
    if (!held.missing.empty() || !held.left.empty()) continue;
    Held complete = std::move(held);
    remove(worker, key);
    go_on(id, std::move(complete));
  }
}

void BlobPulls::end_pull(Worker& worker, const BlobId& blob, bool abandon) {
  if (worker.chunks.find(blob) == nullptr) return;
  pending_ -= worker.chunks.pending();
  worker.chunks.end(blob);
  pending_ += worker.chunks.pending();
  if (abandon) folder_.abandon(blob);
}

// Begins with the next blob in line, if there is one and it has room; false: nothing was begun.
bool BlobPulls::start_pull(const WorkerId& id, Worker& worker, Time now) {
  for (const LeaseKey& key : worker.order) {
    for (const BlobName& name : worker.held.at(key).missing) {
      if (const BlobName* begun = worker.chunks.find(name.id)) {
        if (*begun == name) continue;
        const BlobId other = name.id;
        fail_all_with(id, worker, other, kLost, "two blobs have the same name");
        return true;
      }
      const BlobName next = name;
      if (folder_.holds(next.id)) {  // it came another way
        arrived(id, worker, next);
        return true;
      }
      if (const std::string error = folder_.begin(next); !error.empty()) {
        if (next.size_bytes <= folder_.largest_bytes()) {  // there may be room later
          worker.no_room_since = std::min(worker.no_room_since, now);
          return false;
        }
        fail_all_with(id, worker, next.id, kTooLarge, error);
        return true;
      }
      worker.no_room_since = kNever;
      worker.chunks.begin(next);
      if (next.size_bytes == 0) finish(id, worker, next);
      return true;
    }
  }
  return false;
}

// The next chunk that this worker is to send; false: there is none.
bool BlobPulls::ask_next(const WorkerId& id, Worker& worker, Time now, message::BlobWant& want) {
  if (!worker.connected || worker.chunks.pending() >= limits::kBlobChunksAhead) return false;
  const bool was_quiet = worker.chunks.pending() == 0;
  std::optional<message::BlobWant> next;
  while (!(next = worker.chunks.next())) {
    if (!start_pull(id, worker, now)) return false;
  }
  if (was_quiet) worker.heard = now;
  want = *next;
  ++pending_;
  return true;
}

// One chunk of each worker in turn, as long as there may be more on the way.
std::vector<std::pair<WorkerId, message::BlobWant>> BlobPulls::take_wants(Time now) {
  std::vector<std::pair<WorkerId, message::BlobWant>> wants;
  for (auto& [id, worker] : workers_) take_all_left(id, worker, now);
  auto next = workers_.upper_bound(first_);
  for (std::size_t idle = 0; idle < workers_.size() && pending_ < kMostChunks; ++next) {
    if (next == workers_.end()) next = workers_.begin();
    message::BlobWant want;
    if (ask_next(next->first, next->second, now, want)) {
      wants.push_back({next->first, want});
      first_ = next->first;
      idle = 0;
    } else {
      ++idle;
    }
  }
  return wants;
}

// --- Time ---------------------------------------------------------------------------------------

void BlobPulls::drop(const WorkerId& id, Worker& worker) {
  pending_ -= worker.chunks.pending();
  for (const BlobName& name : worker.chunks.begun()) folder_.abandon(name.id);
  for (auto& [key, held] : worker.held) {
    discard(id, held);
    done(held.pinned);
  }
}

void BlobPulls::tick(Time now) {
  for (auto entry = workers_.begin(); entry != workers_.end();) {
    auto& [id, worker] = *entry;
    const bool is_lost = !books_.is_connected(id);
    if (is_lost) {
      drop(id, worker);
    } else {
      review(id, worker, now);
    }
    const bool is_idle = worker.held.empty() && !worker.connected;
    entry = is_lost || is_idle ? workers_.erase(entry) : std::next(entry);
  }
}

void BlobPulls::review(const WorkerId& id, Worker& worker, Time now) {
  for (const LeaseKey& key : std::deque<LeaseKey>(worker.order)) {
    Held& held = worker.held.at(key);
    const Time since = std::max(held.since, worker.away_since);
    if (!books_.expects(id, held.outcome)) {  // it has ended otherwise
      Held stale = std::move(held);
      remove(worker, key);
      discard(id, stale);
      go_on(id, std::move(stale));
    } else if (!held.missing.empty() && !worker.connected && now - since > kPatience) {
      fail(id, worker, key, kLost, "its worker opened no connection for blobs");
    }
  }
  if (worker.no_room_since != kNever && now - worker.no_room_since > kPatience) {
    worker.no_room_since = kNever;
    if (!worker.order.empty()) {
      fail(id, worker, LeaseKey(worker.order.front()), kTooLarge,
           "the broker had no room for it; release results earlier, or raise --blob-memory or "
           "--blob-disk of the broker");
    }
  }
  for (const BlobName& name : worker.chunks.begun()) {
    const bool wanted = std::any_of(worker.held.begin(), worker.held.end(), [&](const auto& one) {
      const auto& missing = one.second.missing;
      return std::find(missing.begin(), missing.end(), name) != missing.end();
    });
    if (!wanted) end_pull(worker, name.id, true);
  }
}

std::vector<WorkerId> BlobPulls::silent(Time before) const {
  std::vector<WorkerId> silent;
  for (const auto& [id, worker] : workers_) {
    if (worker.chunks.pending() > 0 && worker.heard < before) silent.push_back(id);
  }
  return silent;
}

std::size_t BlobPulls::held() const {
  std::size_t count = 0;
  for (const auto& [id, worker] : workers_) count += worker.held.size();
  return count;
}

}  // namespace muster
