// How other threads reach the one that works with a remote: cut() ends whatever it waits for,
// finish() hands it last words. The working thread polls descriptor() beside its own.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "common/system/descriptor.hpp"

namespace muster {

class Waker {
 public:
  Waker();

  // --- Any thread ---
  void cut();
  void finish(std::string_view last_words);
  bool is_cut() const { return cut_.load(std::memory_order_acquire); }

  // --- The working thread ---
  int descriptor() const { return event_.get(); }  // readable after cut() and finish()
  void drain();
  // From now on cut() also shuts down this socket, of which it keeps a copy.
  void guard(int socket);
  // What finish() left, once.
  std::optional<std::string> take_last_words();
  // Waits until `descriptor` has one of `events`; false when `deadline` is over. Throws NodeError
  // "serve" once cut.
  bool wait(int descriptor, short events, std::chrono::steady_clock::time_point deadline);
  void throw_if_cut() const;

 private:
  void wake();

  Descriptor event_;
  std::atomic<bool> cut_{false};
  std::mutex mutex_;  // of what is below
  Descriptor guarded_;
  std::optional<std::string> last_words_;
};

// How long poll(2) may wait for `deadline`, rounded up.
int poll_timeout(std::chrono::steady_clock::time_point deadline);

}  // namespace muster
