// The blobs of this node, for the worker's loop: whose folders tasks use, and the cache that is
// filled over a connection of its own where they are this worker's.
//
// Owned by main, used on the loop's thread; it outlives the loop. Never blocks but for the making
// of folders.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "common/protocol/message.hpp"
#include "worker/agent/blob_request.hpp"
#include "worker/blobs/bulk_link.hpp"
#include "worker/blobs/worker_folder.hpp"

namespace muster {

struct NodeBlobsOptions {
  WorkerFolderOptions folder;
  // Of the cache on a node that is not the broker's; without a value: a part of what is free.
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::uint64_t> disk_bytes;
  std::uint64_t node_memory_bytes = 0;  // that its tasks may use together; 0: not known
};

class NodeBlobs {
 public:
  // Makes $MUSTER_BLOBS; before any thread or child. Throws std::runtime_error.
  explicit NodeBlobs(NodeBlobsOptions options);
  ~NodeBlobs();  // removes it
  NodeBlobs(const NodeBlobs&) = delete;
  NodeBlobs& operator=(const NodeBlobs&) = delete;

  // Where the broker is; no endpoint: nowhere, for now.
  void connect(const BulkBroker& broker);
  // It welcomed us: whether tasks use its folders from now on.
  bool settle(const message::Welcome& welcome);

  void obey(const std::vector<BlobRequest>& requests);
  std::vector<BlobReport> poll();
  int descriptor() const;  // readable: poll() has something; -1: there is no such thing yet

 private:
  bool share(const message::Welcome& welcome);
  void use_own();
  void make_cache();
  std::unique_ptr<BlobFolder> make_blob_folder(std::uint64_t& most_bytes) const;

  NodeBlobsOptions options_;
  WorkerFolder folder_;
  BulkBroker broker_;
  Incarnation incarnation_;  // of the broker that welcomed us last
  bool shares_ = false;
  std::unique_ptr<BulkLink> link_;  // made when the first broker is elsewhere
  std::vector<std::string> own_;    // the folders that it fills, memory and disk
  std::string trouble_;             // why there is no `link_`
  // Releases that the agent asked for and the link was not told, less those that it was told alone.
  std::uint64_t unseen_releases_ = 0;
  std::unordered_set<BlobId> kept_;  // results that it was told to keep
  std::vector<BlobReport> reports_;
};

}  // namespace muster
