// How a BlobKeeper waits for room, in all or in memory.
#include <fmt/format.h>

#include <algorithm>

#include "producer/blobs/blob_keeper.hpp"

namespace muster::detail {
namespace {

// How long handles that other threads hold may become arguments of tasks, which end some time.
constexpr std::chrono::seconds kHandlePatience{2};

// A wait that nobody went on with for so long is over.
constexpr Duration kForgotten = 2 * kHandlePatience;

// A broker lets go of files a moment after it was told to; others may do so at any time.
constexpr std::chrono::milliseconds kLookAgain{50};

// Of a slow disk (100 MB/s): waiting as long as writing would have taken, and writing then, takes
// at most twice as long as what would have been right.
constexpr std::uint64_t kDiskNsPerByte = 10;

Time clock_now() { return std::chrono::steady_clock::now().time_since_epoch(); }

}  // namespace

void BlobKeeper::check_usable() const {
  if (closed_) throw Error(ErrorCode::disconnected, "closed", "the Producer was destroyed");
  if (shares()) return;
  throw Error(ErrorCode::unusable, "unusable",
              "there are no blobs here: this program does not see the folders of its broker (is it "
              "in another container, or was the broker started without them?)");
}

bool BlobKeeper::await_room(std::uint64_t size_bytes, Deadline deadline) {
  Lock lock(mutex_);
  check_usable();
  while (make_room(lock, size_bytes, deadline, false)) {
    if (!is_known_full(size_bytes)) return true;
    if (!await_files(lock, size_bytes, deadline)) return false;
  }
  return false;
}

// Both file systems were full when something was last written, and have not got the room since.
bool BlobKeeper::is_known_full(std::uint64_t size_bytes) const {
  if (files_full_.empty()) return false;
  return !has_room(folders_, size_bytes, memory_bytes_ + size_bytes <= credit_memory_bytes_);
}

// Waits until it is worth writing once more. False: `deadline` passed. Throws when no task of this
// producer can make room any more.
bool BlobKeeper::await_files(Lock& lock, std::uint64_t size_bytes, Deadline deadline) {
  const std::uint64_t failures = failures_;
  do {
    const Time now = clock_now();
    Time until = now + kLookAgain;
    if (freeable_bytes_ > 0 && fits_at_all(folders_, size_bytes)) {
      files_short_ = {};
    } else if (now >= files_short_.at(now) + kHandlePatience ||
               !fits_at_all(folders_, size_bytes)) {
      throw Error(ErrorCode::out_of_space, "out_of_space", files_full_);
    }
    if (deadline && now >= deadline->time_since_epoch()) return false;
    if (deadline) until = std::min<Time>(until, deadline->time_since_epoch());
    ++waiters_;
    changed_.wait_until(lock, std::chrono::steady_clock::time_point(until));
    --waiters_;
    check_usable();
    if (failures_ != failures) throw Error(*failure_);
  } while (is_known_full(size_bytes));
  return true;
}

Time BlobKeeper::Since::at(Time now) {
  if (begin == kNever || now - seen > kForgotten) begin = now;
  seen = now;
  return begin;
}

// Until when it is worth waiting for others to let go of room: 0, there is enough. Throws what
// makes waiting useless.
Time BlobKeeper::waits_until(std::uint64_t size_bytes, bool wants_memory, Time now) {
  if (used_bytes_ + size_bytes <= credit_bytes_) {
    hopeless_ = {};
    const bool lacks_memory =
        memory_bytes_ + size_bytes > credit_memory_bytes_ && size_bytes <= credit_memory_bytes_;
    if (!wants_memory || !lacks_memory || freeable_bytes_ == 0) return {};
    const Time until =
        memory_short_.at(now) + std::chrono::nanoseconds(size_bytes * kDiskNsPerByte);
    return now < until ? until : Time{};
  }
  if (freeable_bytes_ > 0 && size_bytes <= credit_bytes_) {
    hopeless_ = {};
    return kNever;
  }
  const Time until = hopeless_.at(now) + kHandlePatience;
  if (now < until && size_bytes <= credit_bytes_) return until;
  throw Error(ErrorCode::out_of_space, "out_of_space",
              fmt::format("there is no room for a blob of {} bytes: the broker keeps {} bytes for "
                          "this producer, and {} of them are held by handles; let go of some, or "
                          "start the broker with a larger --blob-disk",
                          size_bytes, credit_bytes_, used_bytes_));
}

// Throws what makes waiting useless; false: `deadline` passed.
bool BlobKeeper::make_room(Lock& lock, std::uint64_t size_bytes, Deadline deadline,
                           bool wants_memory) {
  const std::uint64_t failures = failures_;
  for (;;) {
    const Time now = clock_now();
    Time until = waits_until(size_bytes, wants_memory, now);
    if (until == Time{}) return true;
    if (deadline && now >= deadline->time_since_epoch()) return false;
    if (deadline) until = std::min<Time>(until, deadline->time_since_epoch());
    ++waiters_;
    if (until == kNever) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, std::chrono::steady_clock::time_point(until));
    }
    --waiters_;
    check_usable();
    if (failures_ != failures) throw Error(*failure_);
  }
}

}  // namespace muster::detail
