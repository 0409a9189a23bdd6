// The tasks of a job from the oldest unacknowledged to the newest, found by sequence in O(1).
//
// Records lie in chunks of neighbours: a batch of outcomes then reads memory in order, which is
// most of what a task costs once a job no longer fits into the cache. Part of the scheduler, pure.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/message.hpp"

namespace muster {

using WorkerIndex = std::uint32_t;  // a place in the worker table
inline constexpr WorkerIndex kNoWorker = UINT32_MAX;

enum class TaskState : std::uint8_t { queued, leased, ended, acknowledged };

struct alignas(64) TaskRecord {  // one cache line
  Payload data;                  // arguments until the task ended, then the outcome's body
  WorkerIndex worker = kNoWorker;
  std::uint32_t attempts_made = 0;  // leases so far; the current lease is attempts_made - 1
  std::uint16_t failures = 0;
  std::uint16_t losses = 0;
  TaskState state = TaskState::queued;
  OutcomeStatus status = OutcomeStatus::result;
  bool suspect = false;           // its worker was lost: no prefetch from now on
  bool stopping = false;          // STOP_TASKS was sent
  bool is_short = false;          // counts among its worker's short leases
  bool out_of_sight = false;      // queued again, but its last lease may still be running somewhere
  bool fetches = false;           // leased to a worker that lacked its blobs: counts in `fetching`
  std::uint8_t lost_waiting = 0;  // workers lost while it waited there for blobs

  Attempt current_attempt() const { return Attempt{attempts_made - 1}; }
};
static_assert(sizeof(TaskRecord) == 64);

// Sequences that the producer skipped are acknowledged tasks. So many of them that whole chunks are
// take no memory: find() then returns null within the window, and next() leads past them.
class TaskWindow {
 public:
  static constexpr std::uint64_t kChunkRecords = 64;  // 4 KiB: small jobs stay small

  std::uint64_t base() const { return base_; }
  std::uint64_t end() const { return end_; }
  bool empty() const { return base_ == end_; }
  // Records that memory is kept for.
  std::uint64_t records() const { return (chunks_.size() - front_) * kChunkRecords; }
  // The task of that sequence; null when it is not in the window, or was skipped.
  [[gnu::always_inline]] TaskRecord* find(std::uint64_t sequence) {
    if (sequence - base_ >= end_ - base_) return nullptr;
    if (!holes_.empty()) return find_among_holes(sequence);
    return &(*chunks_[sequence / kChunkRecords - origin_])[sequence % kChunkRecords];
  }
  // The first sequence from this one on that find() knows, or end().
  std::uint64_t next(std::uint64_t sequence) const {
    if (holes_.empty()) return sequence;
    const auto before = hole_before(sequence / kChunkRecords);
    if (before == holes_.begin()) return sequence;
    return std::min(std::max(sequence, std::prev(before)->end * kChunkRecords), end_);
  }
  // Appends the task of sequence end(). The first task of an empty window may start anywhere.
  TaskRecord& append(std::uint64_t sequence) {
    if (empty()) {
      chunks_.clear();
      holes_.clear();
      absent_ = 0;
      base_ = end_ = sequence;
      front_ = 0;
      origin_ = sequence / kChunkRecords;
    }
    if (chunks_.empty() || end_ % kChunkRecords == 0) {
      if (spares_.empty()) spares_.push_back(std::make_unique<Chunk>());
      chunks_.push_back(std::move(spares_.back()));
      spares_.pop_back();
    }
    return (*chunks_.back())[end_++ % kChunkRecords] = TaskRecord{};
  }
  // Those before `sequence` are acknowledged; returns for how many of them it took records.
  // Precondition: the window is not empty.
  std::uint64_t skip_to(std::uint64_t sequence) {
    std::uint64_t taken = 0;
    const auto fill = [&](std::uint64_t end) {
      for (; end_ < end; ++taken) append(end_).state = TaskState::acknowledged;
    };
    const std::uint64_t first = (end_ + kChunkRecords - 1) / kChunkRecords;
    const std::uint64_t last = sequence / kChunkRecords;
    if (first < last) {
      fill(first * kChunkRecords);
      const std::uint64_t before = holes_.empty() ? absent_ : holes_.back().absent;
      holes_.push_back({first, last, before + last - first});
      end_ = last * kChunkRecords;
    }
    fill(sequence);
    return taken;
  }
  // Starts to fetch a record that is needed soon: in a deep queue, or with many workers, it is far
  // from the cache. Any sequence is fine.
  void prefetch(std::uint64_t sequence) const {
    const std::uint64_t place = sequence / kChunkRecords - origin_;
    if (place >= chunks_.size() || place < front_) return;  // behind a hole: another one, no harm
    __builtin_prefetch(&(*chunks_[place])[sequence % kChunkRecords], 1);
  }
  TaskRecord& front() { return (*chunks_[front_])[base_ % kChunkRecords]; }
  // Precondition: not empty. The record must own nothing any more.
  void pop_front() {
    if (++base_ % kChunkRecords != 0) return;
    if (spares_.size() < kSpares) spares_.push_back(std::move(chunks_[front_]));
    chunks_[front_++].reset();
    if (front_ >= kForgetAtOnce && front_ * 2 >= chunks_.size()) {
      chunks_.erase(chunks_.begin(), chunks_.begin() + static_cast<std::ptrdiff_t>(front_));
      origin_ += front_;
      front_ = 0;
    }
    if (holes_.empty() || holes_.front().first != origin_ + front_) return;
    origin_ = holes_.front().end - front_;
    absent_ = holes_.front().absent;
    base_ = holes_.front().end * kChunkRecords;
    holes_.pop_front();
  }

 private:
  static constexpr std::size_t kSpares = 16;  // a full batch of tasks
  static constexpr std::size_t kForgetAtOnce = 64;
  using Chunk = std::array<TaskRecord, kChunkRecords>;
  // Chunks, counted from sequence 0, that are not there.
  struct Hole {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
    std::uint64_t absent = 0;  // those of this hole and of all before it
  };

  // Behind the last hole that begins at this chunk or before it.
  std::deque<Hole>::const_iterator hole_before(std::uint64_t chunk) const {
    return std::upper_bound(
        holes_.begin(), holes_.end(), chunk,
        [](std::uint64_t wanted, const Hole& hole) { return wanted < hole.first; });
  }

  // Apart from find(), which is small enough to be inlined without it.
  [[gnu::noinline]] TaskRecord* find_among_holes(std::uint64_t sequence) {
    const std::uint64_t chunk = sequence / kChunkRecords;
    std::uint64_t place = chunk - origin_;
    const auto before = hole_before(chunk);
    if (before != holes_.begin()) {
      const Hole& hole = *std::prev(before);
      if (chunk < hole.end) return nullptr;
      place -= hole.absent - absent_;
    }
    return &(*chunks_[place])[sequence % kChunkRecords];
  }

  std::vector<std::unique_ptr<Chunk>> chunks_;  // those before front_ are null
  std::vector<std::unique_ptr<Chunk>> spares_;
  std::deque<Hole> holes_;
  std::uint64_t front_ = 0;   // the chunk of base_, in chunks_
  std::uint64_t origin_ = 0;  // where chunks_ begins, counted from sequence 0
  std::uint64_t absent_ = 0;  // in holes that the window has passed
  std::uint64_t base_ = 0;
  std::uint64_t end_ = 0;
};

}  // namespace muster
