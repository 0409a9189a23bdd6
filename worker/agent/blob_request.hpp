// What the agent wants of the node's cache of blobs (blob_cache.hpp), and what the cache tells it.
// Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

struct BlobRequest {
  enum class Kind {
    fetch,    // leases need it: `here` or `gone` answers, and it stays until it is released
    release,  // of what was fetched: no lease needs it any more
    keep,     // a task returned it: it stays until it is dropped
    drop,     // of what was kept, or of what a task wrote and nobody wants
  };
  Kind kind{};
  BlobName name;
};

struct BlobReport {
  enum class Kind {
    here,     // it stays until it is released
    gone,     // it cannot be had: `reason`
    blocked,  // there is no room for it until something is released or dropped: `reason`
    evicted,  // it is not in the cache any more; nobody needed it
  };
  Kind kind{};
  BlobId blob;
  std::string reason = {};
  std::uint64_t releases = 0;  // blocked: how many releases and drops the cache had seen
};

}  // namespace muster
