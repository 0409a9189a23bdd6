#include "producer/session/told_blobs.hpp"

#include <algorithm>
#include <utility>

#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

// Says `entries` in as few messages as their limit permits, and empties them.
template <typename Kind, typename Entry>
void say_all(std::vector<Entry>& entries, std::vector<Message>& messages) {
  for (std::size_t first = 0; first < entries.size(); first += limits::kMaxBlobEntries) {
    const auto from = entries.begin() + static_cast<std::ptrdiff_t>(first);
    const auto count = std::min(limits::kMaxBlobEntries, entries.size() - first);
    messages.emplace_back(Kind{{from, from + static_cast<std::ptrdiff_t>(count)}});
  }
  entries.clear();
}

}  // namespace

void ToldBlobs::put(BlobSource source) {
  const BlobId id = source.name.id;
  Held& blob = blobs_[id];
  blob.source = std::move(source);
  blob.adopted = blob.source.place == BlobPlace::kept;
  if (!std::exchange(blob.waiting, true)) puts_.push_back(id);
}

bool ToldBlobs::release(const BlobId& id) {
  const auto found = blobs_.find(id);
  if (found == blobs_.end()) return true;
  if (found->second.in_doubt) --in_doubt_;
  if (found->second.waiting) puts_.erase(std::find(puts_.begin(), puts_.end(), id));
  const bool said = found->second.said;
  if (said) releases_.push_back(id);
  blobs_.erase(found);
  return said;
}

void ToldBlobs::keep_of(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    for (std::size_t i = 0; i < outcome.body.blobs; ++i) {
      const BlobName name = blob_at(outcome.body, i);
      blobs_.try_emplace(name.id, Held{{name, BlobPlace::kept}, true, true});
    }
  }
}

void ToldBlobs::hear(message::BlobAnswers&& answers, std::vector<BlobAnswer>& heard) {
  for (BlobAnswer& answer : answers.blobs) {
    const auto found = blobs_.find(answer.id);
    if (found == blobs_.end()) continue;
    Held& blob = found->second;
    if (std::exchange(blob.in_doubt, false)) --in_doubt_;
    // The user's own files a broker learns of from each session.
    if (answer.state == BlobState::here && blob.source.place != BlobPlace::file) {
      blob.adopted = true;
    }
    heard.push_back(std::move(answer));
  }
}

void ToldBlobs::resume(bool new_incarnation) {
  releases_.insert(releases_.begin(), released_.begin(), released_.end());
  released_.clear();
  released_asked_ = 0;
  release_token_ = 0;
  std::erase_if(releases_, [&](const BlobId& id) { return new_incarnation || blobs_.count(id); });
  puts_.clear();
  in_doubt_ = 0;
  for (auto& [id, blob] : blobs_) {
    blob.waiting = true;
    blob.in_doubt = blob.adopted;
    if (blob.in_doubt) ++in_doubt_;
    puts_.push_back(id);
  }
}

void ToldBlobs::confirm_releases(std::uint64_t token) {
  if (release_token_ == 0 || token != release_token_) return;
  release_token_ = 0;
  const auto end = released_.begin() + static_cast<std::ptrdiff_t>(released_asked_);
  released_.erase(released_.begin(), end);
  released_asked_ = 0;
}

void ToldBlobs::talk(std::vector<Message>& messages) {
  const bool releases = !releases_.empty();
  released_.insert(released_.end(), releases_.begin(), releases_.end());
  say_all<message::BlobRelease>(releases_, messages);
  std::vector<BlobSource> sources;
  sources.reserve(puts_.size());
  for (const BlobId& id : std::exchange(puts_, {})) {
    Held& blob = blobs_.at(id);
    blob.waiting = false;
    blob.said = true;
    sources.push_back(blob.adopted ? BlobSource{blob.source.name, BlobPlace::kept} : blob.source);
  }
  say_all<message::BlobPut>(sources, messages);
  if (!releases || release_token_ != 0) return;
  release_token_ = ++last_release_token_;
  released_asked_ = released_.size();
  messages.emplace_back(message::Heartbeat{release_token_, true});
}

void ToldBlobs::check_invariants() const {
  std::size_t in_doubt = 0;
  for (const auto& [id, blob] : blobs_) {
    CHECK(blob.source.name.id == id);
    if (blob.in_doubt) ++in_doubt;
  }
  CHECK(in_doubt == in_doubt_);
  CHECK(released_asked_ <= released_.size());
}

}  // namespace muster
