#include "broker/job_table.hpp"

#include <utility>

namespace muster {

TaskRecord& JobRecord::append(std::uint64_t sequence, Payload&& payload) {
  if (tasks_.empty()) cursor_ = sequence;
  TaskRecord& task = tasks_.append(sequence);
  task.data = std::move(payload);
  ++queued;
  return task;
}

void JobRecord::drop_acknowledged() {
  while (!tasks_.empty() && tasks_.front().state == TaskState::acknowledged) tasks_.pop_front();
  if (cursor_ < base()) cursor_ = base();
}

void JobRecord::requeue(std::uint64_t sequence, TaskRecord& task) {
  task.state = TaskState::queued;
  task.worker = kNoWorker;
  ++queued;
  if (is_last_chance(task)) {
    last_chance_.insert(sequence);
  } else {
    returned_.insert(sequence);
  }
}

void JobRecord::unqueue(std::uint64_t sequence) {
  --queued;  // a fresh one stays under the cursor, which passes over it
  returned_.erase(sequence);
  last_chance_.erase(sequence);
}

std::optional<std::uint64_t> JobRecord::take_queued(bool fresh_only) {
  if (!returned_.empty()) {
    const std::uint64_t sequence = *returned_.begin();
    // Behind a suspect there are most likely suspects of the same loss: do not search.
    if (!fresh_only || !find(sequence)->suspect) {
      returned_.erase(returned_.begin());
      --queued;
      return sequence;
    }
  }
  for (; cursor_ < end(); ++cursor_) {
    if (find(cursor_)->state != TaskState::queued) continue;
    if (!returned_.empty() && returned_.count(cursor_) != 0) continue;
    if (!last_chance_.empty() && last_chance_.count(cursor_) != 0) continue;
    --queued;
    tasks_.prefetch(cursor_ + kPrefetchRecords);
    return cursor_++;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> JobRecord::take_last_chance() {
  if (last_chance_.empty()) return std::nullopt;
  const std::uint64_t sequence = *last_chance_.begin();
  last_chance_.erase(last_chance_.begin());
  --queued;
  return sequence;
}

}  // namespace muster
