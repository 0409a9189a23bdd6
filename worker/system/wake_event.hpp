// The eventfd with which threads wake the worker's loop.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "common/system/descriptor.hpp"

namespace muster {

// Any thread calls `signal`; the loop polls the descriptor and calls `take` before it looks for
// work. However often it is signalled in between, it costs one write.
class WakeEvent {
 public:
  WakeEvent() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  int descriptor() const { return event_.get(); }
  void signal() {
    if (signalled_.exchange(true, std::memory_order_acq_rel)) return;
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(event_.get(), &one, sizeof one);
  }
  void take() {
    if (!signalled_.load(std::memory_order_acquire)) return;
    std::uint64_t count = 0;
    [[maybe_unused]] const auto read = ::read(event_.get(), &count, sizeof count);
    signalled_.exchange(false, std::memory_order_acq_rel);
  }

 private:
  Descriptor event_;
  std::atomic<bool> signalled_{false};
};

}  // namespace muster
