#include "common/blobs/blob_mover.hpp"

#include <fcntl.h>
#include <sys/sendfile.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/system/quiet_thread.hpp"

namespace muster {
namespace {

// So much is copied between two looks at whether to end: some milliseconds.
constexpr std::uint64_t kSliceBytes = std::uint64_t{4} << 20;

}  // namespace

BlobMover::~BlobMover() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void BlobMover::start(Copy copy) {
  ++open_count_;
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(copy));
  }
  if (thread_.joinable()) {
    changed_.notify_all();
    return;
  }
  thread_ = quiet_thread([this] { run(); });
}

std::vector<BlobMover::Done> BlobMover::take_done() {
  const std::lock_guard lock(mutex_);
  open_count_ -= done_.size();
  return std::exchange(done_, {});
}

bool BlobMover::is_ending() {
  const std::lock_guard lock(mutex_);
  return ending_;
}

void BlobMover::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (ending_) return;
    const Copy copy = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    const int error = copy_all(copy);
    lock.lock();
    done_.push_back({copy.id, error});
  }
}

int BlobMover::copy_all(const Copy& copy) {
  // A full disk says so at once, where it can.
  const int reserved = copy.size_bytes == 0
                           ? 0
                           : posix_fallocate(copy.to.get(), 0, static_cast<off_t>(copy.size_bytes));
  if (reserved != 0 && reserved != EOPNOTSUPP && reserved != EINVAL) return reserved;
  std::uint64_t copied = 0;
  while (copied < copy.size_bytes) {
    if (is_ending()) return ECANCELED;
    const std::uint64_t slice = std::min(kSliceBytes, copy.size_bytes - copied);
    const ssize_t part = sendfile(copy.to.get(), copy.from.get(), nullptr, slice);
    if (part < 0 && errno != EINTR) return errno;
    if (part == 0) return EIO;  // the file is shorter than its blob
    if (part > 0) copied += static_cast<std::uint64_t>(part);
  }
  return 0;
}

}  // namespace muster
