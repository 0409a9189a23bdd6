// The tasks of a job from the oldest unacknowledged to the newest, found by sequence in O(1).
//
// Records lie in chunks of neighbours: a batch of outcomes then reads memory in order, which is
// most of what a task costs once a job no longer fits into the cache. Part of the scheduler, pure.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "common/ids.hpp"
#include "common/message.hpp"

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

class TaskWindow {
 public:
  std::uint64_t base() const { return base_; }
  std::uint64_t end() const { return end_; }
  bool empty() const { return base_ == end_; }
  // The task of that sequence; null when it is not in the window.
  TaskRecord* find(std::uint64_t sequence) {
    if (sequence - base_ >= end_ - base_) return nullptr;
    return &record(sequence);
  }
  // Appends the task of sequence end(). The first task of an empty window may start anywhere.
  TaskRecord& append(std::uint64_t sequence) {
    if (empty()) {
      chunks_.clear();
      base_ = end_ = sequence;
      first_ = sequence - sequence % kChunkRecords;
    }
    if (end_ - first_ >= chunks_.size() * kChunkRecords) {
      if (spares_.empty()) spares_.push_back(std::make_unique<Chunk>());
      chunks_.push_back(std::move(spares_.back()));
      spares_.pop_back();
    }
    return record(end_++) = TaskRecord{};
  }
  // Starts to fetch a record that is needed soon: in a deep queue, or with many workers, it is far
  // from the cache. Any sequence is fine.
  void prefetch(std::uint64_t sequence) const {
    const std::uint64_t offset = sequence - first_;
    if (offset >= chunks_.size() * kChunkRecords) return;
    __builtin_prefetch(&(*chunks_[offset / kChunkRecords])[offset % kChunkRecords], 1);
  }
  TaskRecord& front() { return record(base_); }
  // Precondition: not empty. The record must own nothing any more.
  void pop_front() {
    if (++base_ - first_ < kChunkRecords) return;
    if (spares_.size() < kSpares) spares_.push_back(std::move(chunks_.front()));
    chunks_.pop_front();
    first_ += kChunkRecords;
  }

 private:
  static constexpr std::uint64_t kChunkRecords = 128;  // 8 KiB: small jobs stay small
  static constexpr std::size_t kSpares = 16;           // two full batches of tasks
  using Chunk = std::array<TaskRecord, kChunkRecords>;

  TaskRecord& record(std::uint64_t sequence) {
    const std::uint64_t offset = sequence - first_;
    return (*chunks_[offset / kChunkRecords])[offset % kChunkRecords];
  }

  std::deque<std::unique_ptr<Chunk>> chunks_;
  std::vector<std::unique_ptr<Chunk>> spares_;
  std::uint64_t first_ = 0;  // the sequence of the first chunk's first record
  std::uint64_t base_ = 0;
  std::uint64_t end_ = 0;
};

}  // namespace muster
