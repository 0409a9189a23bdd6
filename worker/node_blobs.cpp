#include "worker/node_blobs.hpp"

#include <spdlog/spdlog.h>

#include <exception>
#include <utility>

namespace muster {

NodeBlobs::NodeBlobs(NodeBlobsOptions options)
    : options_(std::move(options)), folder_(options_.folder) {
  folder_.export_environment();
}

NodeBlobs::~NodeBlobs() = default;

bool NodeBlobs::settle(const message::Welcome& welcome) {
  const bool shares = WorkerFolder::sees(welcome.blob_folders, welcome.blob_token);
  if (shares && folder_.used() != welcome.blob_folders) {
    try {
      folder_.use(welcome.blob_folders, true);
    } catch (const std::exception& error) {
      spdlog::warn("cannot use the broker's folders of blobs: {}", error.what());
      shares_ = false;
      return false;
    }
  }
  shares_ = shares;
  return shares;
}

void NodeBlobs::obey(const std::vector<BlobRequest>& requests) {
  for (const BlobRequest& request : requests) {
    switch (request.kind) {
      case BlobRequest::Kind::fetch:
        reports_.push_back({BlobReport::Kind::gone, request.name.id,
                            "this worker does not see the broker's folders"});
        break;
      case BlobRequest::Kind::drop:
        folder_.discard(request.name.id);
        break;
      case BlobRequest::Kind::release:
      case BlobRequest::Kind::keep:
        break;
    }
  }
}

std::vector<BlobReport> NodeBlobs::poll() { return std::exchange(reports_, {}); }

}  // namespace muster
