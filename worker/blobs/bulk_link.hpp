// The worker's second connection, on which nothing but blobs travels, and the thread that fills the
// node's cache from it. So a small task never waits behind large data, nor the worker's loop for a
// disk.
//
// The connection is made when the first blob is to come or was returned. Its messages go by the
// rules of docs/protocol.md, "Blobs"; a peer that cannot prove to be our broker is told nothing but
// HELLO_BULK.
//
// Owned by the worker's loop, on whose thread every function is called. None of them blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/blobs/blob_folder.hpp"
#include "common/net/transport.hpp"
#include "worker/agent/blob_request.hpp"

namespace muster {

struct BulkBroker {
  std::string endpoint;  // empty: there is none for now
  Login login = {};
  std::string proof = {};  // not empty: WELCOME must carry it
};

struct BulkOptions {
  WorkerId worker;
  std::uint64_t most_bytes = 0;                  // the largest blob that there can be room for
  Duration patience = std::chrono::seconds(15);  // for pieces; then another connection is made
};

class BulkLink {
 public:
  BulkLink(BulkOptions options, std::unique_ptr<BlobFolder> folder);
  ~BulkLink();
  BulkLink(const BulkLink&) = delete;
  BulkLink& operator=(const BulkLink&) = delete;

  // From now on the broker is there: a connection to another one, or an older one to the same, is
  // ended. Pieces that had come stay.
  void connect(const BulkBroker& broker);
  // That broker was restarted: it may have to hear from producers first what it had.
  void be_patient();
  void obey(const std::vector<BlobRequest>& requests);

  std::vector<BlobReport> poll();
  int descriptor() const;  // readable: poll() has something

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace muster
