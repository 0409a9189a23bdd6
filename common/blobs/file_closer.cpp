#include "common/blobs/file_closer.hpp"

#include <utility>

#include "common/system/quiet_thread.hpp"

namespace muster {

FileCloser::~FileCloser() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void FileCloser::close(Descriptor file) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(file));
  }
  if (!thread_.joinable()) thread_ = quiet_thread([this] { run(); });
  changed_.notify_all();
}

void FileCloser::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    std::vector<Descriptor> files = std::exchange(waiting_, {});
    const bool is_last = ending_;
    lock.unlock();
    files.clear();
    if (is_last) return;
    lock.lock();
  }
}

}  // namespace muster
