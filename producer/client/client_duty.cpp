// Which thread works for the client, and when: the background thread, a thread that waits, one that
// submits.
#include <poll.h>

#include <algorithm>
#include <array>
#include <utility>

#include "producer/client/client.hpp"

namespace muster::detail {
namespace {

// Up to so many tasks a thread sends and receives for itself. Beyond, batches gain more than a
// thread's wake costs.
constexpr std::uint64_t kFewTasks = 8;

// After a thread has led the background thread keeps away for so long: often it comes back. What
// arrives meanwhile, and acknowledgements, wait.
constexpr std::chrono::milliseconds kAway{1};

Time clock_now() { return std::chrono::steady_clock::now().time_since_epoch(); }

}  // namespace

// --- A thread that submits

bool Client::may_send(std::size_t tasks) const {
  return can_send_ && inbox_.empty() && tasks_in_hand_ + tasks <= kFewTasks && !stopping_ &&
         !fault_;
}

// Under turn_mutex_. Calls no Sink: the caller may hold what it locks.
void Client::send_now(Submit& command) {
  try {
    take_blob_orders();
    apply(command);
    const Time now = attention_.wakes(clock_now(), session_.heartbeat_interval());
    session_.tick(now);
    send();
    finish_turn(next_turn(now));
  } catch (...) {
    fail_turn(std::current_exception());
  }
}

// --- A thread that waits

bool Client::may_lead() const {
  return !leading_ && followers_ == 0 && tasks_in_hand_ <= kFewTasks && inbox_.empty() &&
         !stopping_ && !dead_ && !fault_;
}

// True when `done()` or `deadline` passed. False when others work: the caller is a follower then.
bool Client::lead(Deadline deadline, const Done& done) {
  std::unique_lock lock(mutex_);
  if (!may_lead()) {
    follow(lock);
    return false;
  }
  leading_ = true;
  ++visits_;
  if (watching_) {
    wake(lock, background_);
  } else {
    lock.unlock();
  }
  bool over = false;
  try {
    while (!(over = done()) && await_turn(deadline)) {
      if (!turn(done)) break;
    }
  } catch (...) {
    fail_turn(std::current_exception());
  }
  over = over || (deadline && clock_now() >= deadline->time_since_epoch());
  lock.lock();
  leading_ = false;
  if (!over) {
    follow(lock);
  } else if (parked_ || followers_ > 0 || !inbox_.empty() || stopping_ || fault_) {
    wake(lock, background_);
  }
  return over;
}

// False when the leader is to leave.
bool Client::await_turn(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (stopping_ || fault_ || tasks_in_hand_ > kFewTasks) return false;
  if (!inbox_.empty()) return true;
  const Time limit = deadline ? deadline->time_since_epoch() : kNever;
  sleep(lock, leader_, true, std::min(turn_due_, limit));
  return !stopping_ && clock_now() < limit;
}

// Releases the lock.
void Client::follow(std::unique_lock<std::mutex>& lock) {
  ++followers_;
  if (leading_ || watching_) {
    lock.unlock();
  } else {
    wake(lock, background_);
  }
}

void Client::unfollow() {
  const std::lock_guard lock(mutex_);
  --followers_;
}

void Client::stir() {
  std::unique_lock lock(mutex_);
  wake(lock, leader_);
}

// --- The background thread

// Until a turn is to be done here.
void Client::doze() {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !fault_) {
    if (!leading_ && (!inbox_.empty() || turn_due_ <= clock_now())) return;
    const bool visited = std::exchange(visits_seen_, visits_) != visits_;
    watching_ = !leading_ && (!visited || followers_ > 0);
    parked_ = leading_ && !visited;
    Time until = kNever;
    if (watching_) {
      until = turn_due_;
    } else if (!parked_) {
      until = clock_now() + kAway;
    }
    sleep(lock, background_, watching_, until);
    watching_ = parked_ = false;
    if (!leading_) return;
  }
}

// --- All of them

// Until `until`, or the worker is woken, or, with `watch`, something happens on the connection.
void Client::sleep(std::unique_lock<std::mutex>& lock, Worker& self, bool watch, Time until) {
  std::array<pollfd, 3> descriptors{{{self.bell.descriptor(), POLLIN, 0},
                                     {dealer_descriptor_, POLLIN, 0},
                                     {monitor_descriptor_, POLLIN, 0}}};
  self.asleep = true;
  lock.unlock();
  timespec timeout{};
  if (until != kNever) {
    const Duration left = std::max<Duration>(until - clock_now(), Duration{0});
    const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
    timeout.tv_sec = seconds.count();
    timeout.tv_nsec = std::chrono::nanoseconds(left - seconds).count();
  }
  ::ppoll(descriptors.data(), watch ? descriptors.size() : 1, until == kNever ? nullptr : &timeout,
          nullptr);
  if (descriptors[0].revents != 0) self.bell.silence();
  lock.lock();
  self.asleep = false;
}

// A turn has thrown: the background thread ends the client.
void Client::fail_turn(std::exception_ptr fault) {
  std::unique_lock lock(mutex_);
  if (!fault_) fault_ = std::move(fault);
  wake(lock, leader_);
  lock.lock();
  wake(lock, background_);
}

}  // namespace muster::detail
