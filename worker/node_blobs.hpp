// The blobs of this node, for the worker's loop: whose folders tasks use, and the cache that is
// filled over a connection of its own where they are this worker's.
//
// Owned by main, used on the loop's thread; it outlives the loop. Never blocks but for the making
// of folders.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/message.hpp"
#include "worker/blob_request.hpp"
#include "worker/worker_folder.hpp"

namespace muster {

struct NodeBlobsOptions {
  WorkerFolderOptions folder;
};

class NodeBlobs {
 public:
  // Makes $MUSTER_BLOBS; before any thread or child. Throws std::runtime_error.
  explicit NodeBlobs(NodeBlobsOptions options);
  ~NodeBlobs();  // removes it
  NodeBlobs(const NodeBlobs&) = delete;
  NodeBlobs& operator=(const NodeBlobs&) = delete;

  // The broker welcomed us: whether tasks use its folders from now on.
  bool settle(const message::Welcome& welcome);
  void obey(const std::vector<BlobRequest>& requests);
  std::vector<BlobReport> poll();

 private:
  NodeBlobsOptions options_;
  WorkerFolder folder_;
  bool shares_ = false;
  std::vector<BlobReport> reports_;
};

}  // namespace muster
