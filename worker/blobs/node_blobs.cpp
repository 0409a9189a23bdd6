#include "worker/blobs/node_blobs.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace muster {
namespace {

// What nobody said: so much of the node's memory, and of what is free in each place.
constexpr std::uint64_t kMemoryPart = 4;
constexpr std::uint64_t kFreePart = 2;

}  // namespace

NodeBlobs::NodeBlobs(NodeBlobsOptions options)
    : options_(std::move(options)), folder_(options_.folder) {
  if (!folder_.trouble().empty()) {
    spdlog::error("large data is kept on disk only, which is slow: {}", folder_.trouble());
  }
  folder_.export_environment();
}

NodeBlobs::~NodeBlobs() = default;

void NodeBlobs::connect(const BulkBroker& broker) {
  broker_ = broker;
  if (link_) link_->connect(broker_);
}

// --- Whose folders ------------------------------------------------------------------------------

bool NodeBlobs::settle(const message::Welcome& welcome) {
  shares_ = share(welcome);
  if (!shares_) use_own();
  const Incarnation before = std::exchange(incarnation_, welcome.incarnation);
  if (link_ && !before.is_zero() && before != incarnation_) link_->be_patient();
  return shares_;
}

bool NodeBlobs::share(const message::Welcome& welcome) {
  if (!WorkerFolder::sees(welcome.blob_folders, welcome.blob_token)) return false;
  try {
    if (folder_.used() != welcome.blob_folders) {
      folder_.use(welcome.blob_folders, true);
    } else {
      folder_.mark();
    }
  } catch (const std::exception& error) {
    spdlog::warn("cannot use the broker's folders of blobs: {}", error.what());
    return false;
  }
  std::vector<BlobRequest> drops;
  for (const BlobId& id : std::exchange(kept_, {})) {
    folder_.offer(id, own_);
    drops.push_back({BlobRequest::Kind::drop, {id, 0}});
    --unseen_releases_;  // the agent did not ask for it
  }
  if (link_) link_->obey(drops);
  return true;
}

void NodeBlobs::use_own() {
  make_cache();
  if (!link_ || folder_.used() == own_) return;
  try {
    folder_.use(own_, false);
  } catch (const std::exception& error) {
    spdlog::warn("cannot use this worker's folders of blobs: {}", error.what());
  }
}

void NodeBlobs::make_cache() {
  if (link_) return;
  try {
    BulkOptions options;
    options.worker = options_.folder.worker;
    std::unique_ptr<BlobFolder> folder = make_blob_folder(options.most_bytes);
    own_ = folder->folders();
    link_ = std::make_unique<BulkLink>(options, std::move(folder));
    link_->connect(broker_);
    trouble_.clear();
  } catch (const std::exception& error) {
    if (trouble_.empty()) spdlog::warn("tasks with large data cannot run here: {}", error.what());
    trouble_ = error.what();
  }
}

std::unique_ptr<BlobFolder> NodeBlobs::make_blob_folder(std::uint64_t& most_bytes) const {
  BlobFolderOptions made;
  made.memory = folder_.memory_folder();
  made.disk = folder_.disk_folder();
  made.disk_top = options_.folder.disk_top;
  std::uint64_t memory = free_bytes_at(folder_.path()) / kFreePart;
  if (options_.node_memory_bytes > 0) {
    memory = std::min(memory, options_.node_memory_bytes / kMemoryPart);
  }
  // Where both are on disk, one is enough.
  if (!folder_.is_in_memory()) memory = 0;
  made.memory_limit_bytes = options_.memory_bytes.value_or(memory);
  made.disk_limit_bytes =
      options_.disk_bytes.value_or(free_bytes_at(options_.folder.disk_root) / kFreePart);
  most_bytes = std::max(made.memory_limit_bytes, made.disk_limit_bytes);
  try {
    return std::make_unique<BlobFolder>(made);
  } catch (const std::exception& error) {
    if (!folder_.is_in_memory()) throw;
    spdlog::warn("blobs are kept in memory only: {}", error.what());
  }
  made.disk = folder_.path() + "/own-disk";
  made.disk_top.clear();
  made.disk_limit_bytes = 0;
  most_bytes = made.memory_limit_bytes;
  return std::make_unique<BlobFolder>(made);
}

// --- The agent's wishes -------------------------------------------------------------------------

void NodeBlobs::obey(const std::vector<BlobRequest>& requests) {
  std::vector<BlobRequest> passed;
  for (const BlobRequest& request : requests) {
    const BlobId& id = request.name.id;
    const bool frees =
        request.kind == BlobRequest::Kind::release || request.kind == BlobRequest::Kind::drop;
    if (frees && !link_) ++unseen_releases_;
    switch (request.kind) {
      case BlobRequest::Kind::fetch:
        if (!link_) reports_.push_back({BlobReport::Kind::gone, id, trouble_});
        passed.push_back(request);
        break;
      case BlobRequest::Kind::release:
        passed.push_back(request);
        break;
      case BlobRequest::Kind::keep:
        if (shares_ || !link_ || !kept_.insert(id).second) break;
        passed.push_back(request);
        break;
      case BlobRequest::Kind::drop:
        if (kept_.erase(id) == 0) folder_.discard(id);
        passed.push_back(request);
        break;
    }
  }
  if (link_ && !passed.empty()) link_->obey(passed);
}

std::vector<BlobReport> NodeBlobs::poll() {
  std::vector<BlobReport> reports = std::exchange(reports_, {});
  if (!link_) return reports;
  for (BlobReport& report : link_->poll()) {
    report.releases += unseen_releases_;
    reports.push_back(std::move(report));
  }
  return reports;
}

int NodeBlobs::descriptor() const { return link_ ? link_->descriptor() : -1; }

}  // namespace muster
