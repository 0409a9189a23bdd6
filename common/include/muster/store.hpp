// What a program or a task asks of the pool's stores of computed values (docs/protocol.md,
// "Stores"), and the answer. Part of both public faces: Producer::ask and RunnerLink::ask.
//
// A store is a name; it holds values by key. A caller that claims a key gets its value, or is told
// to compute it. Others that claim the key meanwhile wait until the value is put or the claim is
// released. Plain values; threads: any.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <muster/bytes.hpp>
#include <optional>
#include <string>
#include <vector>

namespace muster {

enum class StoreOperation : std::uint8_t {
  get = 0,       // hit or miss
  claim = 1,     // hit, or yours; waits while another caller computes the value
  put = 2,       // done; a large value comes in pieces, or as a file
  release = 3,   // done; the claim ends without a value, or the wait for one
  contains = 4,  // hit or miss, with the text alone; does not count as an access
  list = 5,      // done: entries after `key`, in order of their keys, whose key begins with `text`
  remove = 6,    // done
  remove_all = 7,  // done: every key that begins with `key`
  trim = 8,        // done: until the limits hold, least recently used first
  read = 9,        // hit: a piece of a value that get or claim found; changed: it is another now
  leave = 10,      // no answer: everything that the claimant claims or waits for ends; 0: all
};

enum class StoreStatus : std::uint8_t {
  hit = 0,
  miss = 1,
  yours = 2,    // the value is the asker's to compute
  done = 3,     // of a piece: go on
  changed = 4,  // begin again
  refused = 5,  // `text` says why and what to do
};

// Values travel in pieces of this size, so that a message delays others by about a millisecond; a
// value of one piece is in the answer itself.
inline constexpr std::size_t kStorePieceBytes = std::size_t{512} << 10;

inline constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

struct StoreLimits {
  std::uint64_t bytes = kNoLimit;
  std::uint64_t items = kNoLimit;
  std::uint64_t age_ms = kNoLimit;  // since the last access
  bool operator==(const StoreLimits&) const = default;
};

struct StoreQuestion {
  StoreOperation operation = StoreOperation::get;
  std::string store;  // its name
  std::string key;
  std::string text = {};         // put: what is said of the value, see StoreReply; list: the prefix
  Bytes value = {};              // put: a piece
  std::string file = {};         // put: the value is this file of StoreReply::folder
  std::uint64_t offset = 0;      // put, read: of the piece
  std::uint64_t size_bytes = 0;  // put: of the whole value; read: of the piece
  std::uint64_t version = 0;     // read: as the hit said
  // The claimant may itself wait for other tasks: others wait for its value only 10 s.
  bool may_block = false;
  StoreLimits limits = {};
};

struct StoreEntry {
  std::string key;
  std::uint64_t size_bytes = 0;
  std::uint64_t accessed_unix_ms = 0;  // last
  std::uint64_t hits = 0;              // since the broker started
  bool operator==(const StoreEntry&) const = default;
};

struct StoreReply {
  StoreStatus status = StoreStatus::refused;
  std::string text = {};         // hit: as put; refused: why
  Bytes value = {};              // hit: the value when it is small, or the piece that was read
  std::uint64_t size_bytes = 0;  // hit: of the whole value
  std::uint64_t version = 0;     // hit: of this value; it changes with every put
  // For callers on the broker's machine (`machine`: its boot id). The file begins with the value.
  // It never changes, and a caller that has opened it keeps it.
  std::string machine = {};
  std::string file = {};
  // Where a file for a put may be written, under any new name.
  std::string folder = {};
  std::vector<StoreEntry> entries = {};  // list; empty: no more
};

// Stands for a reply that may come later. Owner and threads: one.
class PendingReply {
 public:
  virtual ~PendingReply() = default;
  // The reply, once. Nothing: it has not come within `timeout`. Throws Error disconnected or
  // refused if none will come.
  virtual std::optional<StoreReply> wait_for(std::chrono::nanoseconds timeout) = 0;
};

}  // namespace muster
