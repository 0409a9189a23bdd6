// What is behind a producer's Blob. Owner: the Blobs. Threads: any.
#pragma once

#include <memory>
#include <muster/blob.hpp>
#include <utility>

#include "producer/blobs/blob_keeper.hpp"

namespace muster::detail {

class KeptFile final : public BlobFile {
 public:
  KeptFile(std::shared_ptr<BlobKeeper> its_keeper, BlobSource its_source)
      : BlobFile(its_source.name.id.high, its_source.name.id.low, its_source.name.size_bytes),
        keeper(std::move(its_keeper)),
        source(std::move(its_source)) {}
  ~KeptFile() override { keeper->handle_gone(source.name.id); }
  KeptFile(const KeptFile&) = delete;
  KeptFile& operator=(const KeptFile&) = delete;
  Opened open() const override { return keeper->open(*this); }

  const std::shared_ptr<BlobKeeper> keeper;
  const BlobSource source;
};

}  // namespace muster::detail
