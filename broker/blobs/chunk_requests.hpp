// The chunks of blobs that one worker is asked for: what is on its way, and what comes next. Owned
// by BlobPulls. Pure; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

class ChunkRequests {
 public:
  // The blob of this name that was begun and has not ended; null: there is none.
  const BlobName* find(const BlobId& blob) const;
  void begin(const BlobName& name) { pulls_.push_back({name, 0, {}}); }
  // Nothing more of it is asked for, nor expected.
  void end(const BlobId& blob);

  // The next chunk to ask for; nothing: all of what was begun is asked for.
  std::optional<message::BlobWant> next();
  enum class Taken {
    stranger,
    part,
    last
  };  // not what was asked for; one of several; the last one
  Taken take(const BlobId& blob, std::uint64_t offset, std::size_t bytes);
  // Whether chunks of it were asked for and are not here.
  bool awaits(const BlobId& blob) const;
  // The connection is gone: what was not answered is asked for again, from the first hole on.
  void ask_again();

  std::size_t pending() const { return pending_; }  // chunks that were asked for and are not here
  std::vector<BlobName> begun() const;

 private:
  struct Pull {
    BlobName name;
    std::uint64_t asked = 0;                         // up to here
    std::map<std::uint64_t, std::uint32_t> pending;  // asked for and not here: offset, bytes
  };
  const Pull* pull_of(const BlobId& blob) const;
  Pull* pull_of(const BlobId& blob);

  std::deque<Pull> pulls_;
  std::size_t pending_ = 0;
};

}  // namespace muster
