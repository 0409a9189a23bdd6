// What the scheduler asks of the files behind blobs. The broker's are a BlobStore; simulators and
// tests fake them by a set of names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/protocol/message.hpp"

namespace muster {

class BlobFiles {
 public:
  virtual ~BlobFiles() = default;

  virtual bool holds(const BlobName& name) const = 0;
  // Takes what a producer wrote, or a file of the user's, as a blob. `maker`: the system's number
  // of the user to whom the file has to belong; nothing: anybody's. Returns an error text; empty:
  // the blob is here.
  virtual std::string adopt(const BlobSource& source, std::optional<std::uint32_t> maker) = 0;
  // Pins are counted, and keep a blob. `cached` false: the last unpin removes it at once.
  virtual void pin(const BlobId& id) = 0;
  virtual void unpin(const BlobId& id, bool cached) = 0;
  // What this session or worker (hex) wrote and never said.
  virtual void clear_incoming(const std::string& owner) = 0;
};

}  // namespace muster
