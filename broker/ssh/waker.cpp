#include "broker/ssh/waker.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <system_error>

#include "broker/ssh/remote.hpp"

namespace muster {

Waker::Waker() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!event_) throw std::system_error(errno, std::generic_category(), "cannot make an eventfd");
}

void Waker::wake() {
  const std::uint64_t one = 1;
  // It fails only when the counter is full, and then the other thread is awake anyway.
  [[maybe_unused]] const ssize_t written = write(event_.get(), &one, sizeof one);
}

void Waker::cut() {
  cut_.store(true, std::memory_order_release);
  {
    const std::lock_guard lock(mutex_);
    if (guarded_) shutdown(guarded_.get(), SHUT_RDWR);
  }
  wake();
}

void Waker::finish(std::string_view last_words) {
  {
    const std::lock_guard lock(mutex_);
    last_words_ = std::string(last_words);
  }
  wake();
}

void Waker::drain() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(event_.get(), &count, sizeof count);
}

void Waker::guard(int socket) {
  Descriptor copy(fcntl(socket, F_DUPFD_CLOEXEC, 0));
  const std::lock_guard lock(mutex_);
  guarded_ = std::move(copy);
  if (guarded_ && is_cut()) shutdown(guarded_.get(), SHUT_RDWR);
}

std::optional<std::string> Waker::take_last_words() {
  const std::lock_guard lock(mutex_);
  return std::exchange(last_words_, std::nullopt);
}

void Waker::throw_if_cut() const {
  if (is_cut()) throw NodeError(NodeError::Kind::passing, "serve", "the connection was cut here");
}

bool Waker::wait(int descriptor, short events, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    throw_if_cut();
    pollfd descriptors[] = {{descriptor, events, 0}, {event_.get(), POLLIN, 0}};
    const int ready = poll(descriptors, 2, poll_timeout(deadline));
    throw_if_cut();
    if (ready == 0) return false;
    if (ready < 0 && errno != EINTR) return true;  // its next use tells what is wrong
    if (ready > 0 && descriptors[0].revents != 0) return true;
    if (ready > 0) drain();  // last words: they wait until somebody takes them
  }
}

int poll_timeout(std::chrono::steady_clock::time_point deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, INT_MAX));
}

}  // namespace muster
