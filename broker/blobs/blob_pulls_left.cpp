// Blobs that a worker of this machine left in the incoming folders, and that have no room there
// yet.
#include <algorithm>
#include <utility>

#include "broker/blobs/blob_pulls.hpp"
#include "common/protocol/blob_names.hpp"

namespace muster {

// What is larger than all room is not waited for.
bool BlobPulls::must_wait(const WorkerId& id, const BlobName& name) {
  return name.size_bytes <= folder_.largest_bytes() && !folder_.make_room_from(name, to_hex(id));
}

std::string BlobPulls::take_left(const WorkerId& id, Held& held) {
  while (!held.left.empty() && !must_wait(id, held.left.front())) {
    const BlobName name = held.left.front();
    std::string error = folder_.adopt_from(name, to_hex(id));
    if (!error.empty()) return error;
    folder_.pin(name.id);
    held.pinned.push_back(name.id);
    held.left.erase(held.left.begin());
  }
  return "";
}

// One after another: what is large finds room, too.
void BlobPulls::take_all_left(const WorkerId& id, Worker& worker, Time now) {
  while (!worker.crowded.empty()) {
    const LeaseKey key = worker.crowded.front();
    const auto found = worker.held.find(key);
    if (found != worker.held.end()) {
      const std::string error = take_left(id, found->second);
      if (!error.empty()) {
        fail(id, worker, key, kLost, error);
      } else if (!found->second.left.empty()) {
        worker.no_room_since = std::min(worker.no_room_since, now);
        return;
      } else if (found->second.missing.empty()) {
        Held complete = std::move(found->second);
        remove(worker, key);
        go_on(id, std::move(complete));
      }
    }
    worker.crowded.pop_front();
    worker.no_room_since = kNever;
  }
}

// The files of an outcome that nobody takes.
void BlobPulls::discard(const WorkerId& id, const Held& held) {
  const Payload& body = held.outcome.runs.front().outcomes.front().body;
  for (std::uint32_t i = 0; i < body.blobs; ++i) {
    folder_.discard_from(blob_at(body, i).id, to_hex(id));
  }
}

}  // namespace muster
