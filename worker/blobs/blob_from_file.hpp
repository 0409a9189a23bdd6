// A file that becomes a blob of a result: moved if that can be done, copied otherwise, piece by
// piece because the caller has other things to do. Owner: one thread; blocks for a piece.
#pragma once

#include <cstdint>
#include <memory>
#include <muster/blob.hpp>
#include <string>

#include "worker/blobs/task_blobs.hpp"

namespace muster {

class BlobFromFile {
 public:
  // Nothing is changed yet. Throws BlobError when there is no such file.
  BlobFromFile(const TaskBlobs& blobs, const std::string& path);
  ~BlobFromFile();
  BlobFromFile(const BlobFromFile&) = delete;
  BlobFromFile& operator=(const BlobFromFile&) = delete;

  std::uint64_t size_bytes() const;
  // Goes on for at most about `most_bytes`. The blob once it is whole. Throws as `TaskBlobs::make`.
  Blob step(std::uint64_t most_bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace muster
