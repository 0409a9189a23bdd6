// The files behind blobs as a set of names: what the scheduler's tests and simulators have instead
// of a BlobStore. Owner: one test; one thread.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "broker/books/blob_files.hpp"
#include "common/check.hpp"

namespace muster::testing {

class BlobSet : public BlobFiles {
 public:
  bool holds(const BlobName& name) const override {
    const auto found = held_.find(name.id);
    return found != held_.end() && found->second.size_bytes == name.size_bytes;
  }
  std::string adopt(const BlobSource& source, std::optional<std::uint32_t> maker) override {
    last_maker_ = maker;
    if (source.file == "refused") return "it is refused";
    held_.insert({source.name.id, {source.name.size_bytes, 0}});
    return holds(source.name) ? "" : "it has another size";
  }
  void pin(const BlobId& id) override { ++held_.at(id).pins; }
  void unpin(const BlobId& id, bool cached) override {
    const auto found = held_.find(id);
    CHECK(found != held_.end() && found->second.pins > 0);
    if (--found->second.pins == 0 && !cached) held_.erase(found);
  }
  void clear_incoming(const std::string& owner) override { cleared_.insert(owner); }

  // As if a worker's file had been taken.
  void add(const BlobName& name) { held_.insert({name.id, {name.size_bytes, 0}}); }
  // The broker ended, and its folders stay for the next one.
  void forget_pins() {
    for (auto& [id, held] : held_) held.pins = 0;
  }
  // The folder is emptied of what nobody pinned.
  void drop_cached() {
    std::erase_if(held_, [](const auto& entry) { return entry.second.pins == 0; });
  }
  std::uint32_t pins(const BlobId& id) const {
    const auto found = held_.find(id);
    return found == held_.end() ? 0 : found->second.pins;
  }
  // How many are pinned.
  std::size_t pinned() const {
    return static_cast<std::size_t>(std::count_if(
        held_.begin(), held_.end(), [](const auto& entry) { return entry.second.pins > 0; }));
  }
  std::size_t size() const { return held_.size(); }
  // To whom the file of the last blob had to belong.
  std::optional<std::uint32_t> last_maker() const { return last_maker_; }
  bool cleared(const std::string& owner) const { return cleared_.count(owner) != 0; }

 private:
  struct Held {
    std::uint64_t size_bytes = 0;
    std::uint32_t pins = 0;
  };
  std::map<BlobId, Held> held_;
  std::set<std::string> cleared_;
  std::optional<std::uint32_t> last_maker_;
};

}  // namespace muster::testing
