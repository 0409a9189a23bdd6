#include "producer/session/collector.hpp"

#include <algorithm>
#include <utility>

#include "common/check.hpp"

namespace muster {
namespace {

// Tasks beyond the slots that are submitted before anything is known of results: with one of 1 MiB
// each they stay near the window's bytes.
constexpr std::uint64_t kUnmeasuredTasks = 128;

}  // namespace

Collector::Collector(Order order, std::size_t window_tasks, std::size_t window_bytes)
    : order_(order),
      window_tasks_(std::max<std::size_t>(1, window_tasks)),
      window_bytes_(window_bytes) {}

bool Collector::has_room(std::uint64_t slots) const {
  if (tasks_.empty()) return true;
  if (tasks_.size() >= window_tasks_ || bytes_ >= window_bytes_) return false;
  if (tasks_.size() <= slots) return true;
  const std::uint64_t missing = tasks_.end() - delivered_;
  if (delivered_ == 0 && missing > slots + kUnmeasuredTasks) return false;
  return bytes_ + blob_bytes() + missing * result_bytes_ < window_bytes_;
}

TaskSequence Collector::pushed(std::size_t payload_bytes, const Payload& names) {
  const TaskSequence sequence{tasks_.end()};
  tasks_.push({{}, payload_bytes, 0, State::missing});
  payload_blobs_.pushed(value(sequence), names);
  bytes_ += payload_bytes;
  return sequence;
}

void Collector::deliver(TaskSequence first, std::vector<Outcome>&& outcomes) {
  std::uint64_t sequence = value(first);
  for (Outcome& outcome : outcomes) {
    payload_blobs_.finished(sequence);
    Task& task = tasks_[sequence++];
    bytes_ -= task.bytes;
    task.bytes = outcome.body.bytes.size();
    bytes_ += task.bytes;
    task.blob_bytes = blob_bytes_of(outcome.body);
    result_blob_bytes_ += task.blob_bytes;
    result_bytes_ = std::max(task.bytes + task.blob_bytes, result_bytes_ - result_bytes_ / 8);
    task.outcome = std::move(outcome);
    task.state = State::arrived;
  }
  delivered_ += outcomes.size();
  if (order_ == Order::completion && !outcomes.empty()) ready_.push_back({first, outcomes.size()});
}

std::optional<Collected> Collector::next() {
  if (order_ == Order::submission) {
    if (tasks_.empty() || tasks_.front().state != State::arrived) return std::nullopt;
    return take(tasks_.begin());
  }
  if (ready_.empty()) return std::nullopt;
  SequenceRange& range = ready_.front();
  const std::uint64_t sequence = value(range.first);
  range = {range.first + 1, range.count - 1};
  if (range.count == 0) ready_.pop_front();
  return take(sequence);
}

Collected Collector::take(std::uint64_t sequence) {
  Task& task = tasks_[sequence];
  Collected collected{TaskSequence{sequence}, std::move(task.outcome)};
  bytes_ -= task.bytes;
  task.bytes = 0;
  result_blob_bytes_ -= std::exchange(task.blob_bytes, 0);
  task.state = State::returned;
  ++returned_;
  while (!tasks_.empty() && tasks_.front().state == State::returned) tasks_.pop_front();
  return collected;
}

void Collector::check_invariants() const {
  std::size_t bytes = 0;
  std::uint64_t blob_bytes = 0;
  std::uint64_t returned = tasks_.begin();
  std::uint64_t delivered = tasks_.begin();
  for (std::uint64_t i = tasks_.begin(); i < tasks_.end(); ++i) {
    bytes += tasks_[i].bytes;
    blob_bytes += tasks_[i].blob_bytes;
    if (tasks_[i].state == State::returned) ++returned;
    if (tasks_[i].state != State::missing) ++delivered;
  }
  CHECK(bytes == bytes_);
  CHECK(blob_bytes == result_blob_bytes_);
  CHECK(delivered_ < tasks_.end() || payload_blobs_.empty());
  CHECK(returned == returned_);
  CHECK(delivered == delivered_);
}

}  // namespace muster
