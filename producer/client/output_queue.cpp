#include "producer/client/output_queue.hpp"

#include <iterator>
#include <utility>

#include "producer/client/outcome_error.hpp"

namespace muster::detail {
namespace {

std::size_t bytes_of(const OutputLine& line) {
  return line.text.size() + line.name.size() + line.node.size();
}

}  // namespace

void OutputQueue::push(message::Output&& output) {
  const std::lock_guard lock(mutex_);
  dropped_ += output.dropped;
  for (message::OutputLine& said : output.lines) {
    OutputLine& line = lines_.emplace_back();
    line.job = value(output.job);
    line.sequence = value(said.sequence);
    line.node = output.node;
    line.kind = static_cast<OutputLine::Kind>(said.kind);
    line.level = said.level;
    line.name = std::move(said.name);
    line.text = std::move(said.text);
    line.dropped = std::exchange(dropped_, 0);
    bytes_ += bytes_of(line);
  }
  while (lines_.size() > kMaxLines || bytes_ > kMaxBytes) drop_oldest();
  if (!lines_.empty()) changed_.notify_one();
}

void OutputQueue::drop_oldest() {
  const std::uint64_t dropped = lines_.front().dropped + 1;
  bytes_ -= bytes_of(lines_.front());
  lines_.pop_front();
  (lines_.empty() ? dropped_ : lines_.front().dropped) += dropped;
}

std::vector<OutputLine> OutputQueue::take(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, deadline_after(timeout), [this] { return !lines_.empty() || closed_; });
  bytes_ = 0;
  std::deque<OutputLine> lines = std::exchange(lines_, {});
  lock.unlock();
  return {std::make_move_iterator(lines.begin()), std::make_move_iterator(lines.end())};
}

void OutputQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

}  // namespace muster::detail
