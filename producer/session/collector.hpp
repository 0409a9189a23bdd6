// Puts the outcomes of one job into the order in which the application wants them, and bounds how
// far submission may run ahead of it. Pure. Owner and thread: the Stream it belongs to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <muster/producer.hpp>
#include <optional>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/message.hpp"
#include "producer/session/blob_window.hpp"
#include "producer/session/ring.hpp"

namespace muster {

struct Collected {
  TaskSequence sequence{};
  Outcome outcome;
};

class Collector {
 public:
  Collector(Order order, std::size_t window_tasks, std::size_t window_bytes);

  // Whether fewer than the window's tasks and bytes lie between the oldest task that was not
  // returned and the newest. Bytes: of payloads without outcome and of results not yet returned,
  // and of their blobs (BlobWindow), and what the missing results will most likely have. As far as
  // blobs and missing results go, one task more than `slots` is let through; before the first
  // outcome some more than that.
  bool has_room(std::uint64_t slots = 0) const;
  // One more task; its sequence is the number of tasks before it.
  TaskSequence pushed(std::size_t payload_bytes, const Payload& names = {});
  // Of payloads without outcome, and of results not yet returned.
  std::uint64_t blob_bytes() const { return payload_blobs_.bytes() + result_blob_bytes_; }
  // Each sequence at most once, after its pushed().
  void deliver(TaskSequence first, std::vector<Outcome>&& outcomes);
  // The next outcome in order; nothing: it has not arrived.
  std::optional<Collected> next();
  // Every pushed task was returned.
  bool finished() const { return returned_ == tasks_.end(); }

  std::uint64_t pushed_count() const { return tasks_.end(); }
  std::uint64_t delivered_count() const { return delivered_; }
  std::uint64_t returned_count() const { return returned_; }
  void check_invariants() const;  // slow: tests only

 private:
  enum class State : std::uint8_t { missing, arrived, returned };
  struct Task {
    Outcome outcome;
    std::size_t bytes = 0;         // of the payload while missing, of the result when arrived
    std::uint64_t blob_bytes = 0;  // of the result
    State state = State::missing;
  };
  Collected take(std::uint64_t sequence);

  const Order order_;
  const std::size_t window_tasks_;
  const std::size_t window_bytes_;
  Ring<Task> tasks_;                 // begins at the oldest that was not returned
  std::deque<SequenceRange> ready_;  // completion order only: arrived, not returned
  std::uint64_t delivered_ = 0;
  std::uint64_t returned_ = 0;
  std::size_t bytes_ = 0;
  std::uint64_t result_blob_bytes_ = 0;
  std::uint64_t result_bytes_ = 0;  // what a result has of late, with its blobs: rather too much
  BlobWindow payload_blobs_;
};

}  // namespace muster
