// What tasks said, on its way from the client's thread to the application: bounded, because nobody
// has to take it. Owner: a Client. Threads: any.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <muster/producer.hpp>
#include <mutex>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster::detail {

class OutputQueue {
 public:
  static constexpr std::size_t kMaxLines = 10'000;
  static constexpr std::size_t kMaxBytes = std::size_t{64} << 20;  // of the lines' texts and names

  // Never blocks; beyond the limits the oldest lines are dropped and counted.
  void push(message::Output&& output);
  // Every line that waits. Blocks until there is one, `timeout` passed or close() was called (then
  // it is empty).
  std::vector<OutputLine> take(std::chrono::nanoseconds timeout);
  // Nothing more will come: ends every wait.
  void close();

 private:
  void drop_oldest();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<OutputLine> lines_;
  std::size_t bytes_ = 0;
  std::uint64_t dropped_ = 0;  // before the next line that comes
  bool closed_ = false;
};

}  // namespace muster::detail
