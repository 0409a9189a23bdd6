// Closes files on a thread of its own: the last close of a removed file gives its memory back, 30
// ms and more for each 100 MB, for which a loop must not wait.
//
// Owner: a BlobFolder. Threads: close() is its owner's; the thread starts with the first file and
// ends with this object, which waits for what is being closed.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "common/system/descriptor.hpp"

namespace muster {

class FileCloser {
 public:
  FileCloser() = default;
  ~FileCloser();
  FileCloser(const FileCloser&) = delete;
  FileCloser& operator=(const FileCloser&) = delete;

  void close(Descriptor file);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Descriptor> waiting_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace muster
