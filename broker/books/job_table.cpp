#include "broker/books/job_table.hpp"

#include <utility>

namespace muster {

TaskRecord& JobRecord::append(std::uint64_t sequence, Payload&& payload) {
  if (tasks_.empty()) cursor_ = sequence;
  TaskRecord& task = tasks_.append(sequence);
  task.data = std::move(payload);
  ++queued;
  return task;
}

void JobRecord::skip_to(std::uint64_t sequence) {
  const std::uint64_t taken = tasks_.skip_to(sequence);
  skipped_records_ += taken;
  session->skipped_records += taken;
}

void JobRecord::drop_acknowledged() {
  while (!tasks_.empty() && tasks_.front().state == TaskState::acknowledged) tasks_.pop_front();
  if (tasks_.empty() && skipped_records_ > 0) {
    session->skipped_records -= std::exchange(skipped_records_, 0);
  }
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

// The next one in line, which stays there: the first of those that came back, or under the cursor.
std::optional<std::uint64_t> JobRecord::peek_queued(bool fresh_only) {
  // Behind a suspect there are most likely suspects of the same loss: do not search.
  if (!returned_.empty() && (!fresh_only || !find(*returned_.begin())->suspect)) {
    return *returned_.begin();
  }
  for (; (cursor_ = tasks_.next(cursor_)) < end(); ++cursor_) {
    if (find(cursor_)->state != TaskState::queued) continue;
    if (!returned_.empty() && returned_.count(cursor_) != 0) continue;
    if (!last_chance_.empty() && last_chance_.count(cursor_) != 0) continue;
    return cursor_;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> JobRecord::take_queued(bool fresh_only) {
  const auto sequence = peek_queued(fresh_only);
  if (!sequence) return sequence;
  --queued;
  if (returned_.empty() || *returned_.begin() != *sequence) {
    tasks_.prefetch(cursor_ + kPrefetchRecords);
    ++cursor_;
  } else {
    returned_.erase(returned_.begin());
  }
  return sequence;
}

bool JobRecord::is_full() const { return held_bytes() >= session->held_limit; }

std::uint64_t JobRecord::result_limit() const {
  if (is_full()) return starves ? 1 : 0;
  const std::uint64_t room = session->held_limit - held_bytes();
  return mean_result_bytes == 0 ? UINT64_MAX : std::max<std::uint64_t>(room / mean_result_bytes, 1);
}

std::optional<std::uint64_t> JobRecord::take_last_chance() {
  if (last_chance_.empty()) return std::nullopt;
  const std::uint64_t sequence = *last_chance_.begin();
  last_chance_.erase(last_chance_.begin());
  --queued;
  return sequence;
}

}  // namespace muster
