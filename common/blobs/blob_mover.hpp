// Copies files on a thread of its own, so that the keeper of blobs never waits for a disk.
//
// Owner: a BlobFolder. Threads: every function is its owner's; the thread starts with the first
// copy and ends with this object, which gives up what is not copied by then.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

class BlobMover {
 public:
  struct Copy {
    BlobId id;
    Descriptor from;
    Descriptor to;  // a new file
    std::uint64_t size_bytes = 0;
  };
  struct Done {
    BlobId id;
    int error = 0;  // errno; 0: copied
  };

  BlobMover() = default;
  ~BlobMover();
  BlobMover(const BlobMover&) = delete;
  BlobMover& operator=(const BlobMover&) = delete;

  void start(Copy copy);
  std::vector<Done> take_done();
  // Copies that were started and not yet taken.
  std::size_t open_count() const { return open_count_; }

 private:
  void run();
  int copy_all(const Copy& copy);
  bool is_ending();

  std::size_t open_count_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Copy> waiting_;
  std::vector<Done> done_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace muster
