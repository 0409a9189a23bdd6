// The folder of a store: found or made, locked against other brokers, and read at the start.
// At the end nothing is left that is of no use.
//
// Owner: a ValueStore. Threads: its owner's. Blocking: on input and output of files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "broker/stores/store_claims.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

class StoreFolder {
 public:
  // Takes this folder; empty: makes one of its own, which goes with this object. Throws
  // std::runtime_error that says what to do.
  explicit StoreFolder(const std::string& folder);
  ~StoreFolder();
  StoreFolder(const StoreFolder&) = delete;
  StoreFolder& operator=(const StoreFolder&) = delete;

  // What a value's file says of itself.
  struct Value {
    ValueName name;
    std::uint64_t size_bytes = 0;
    std::uint64_t version = 0;
    std::uint64_t accessed_ms = 0;
  };
  // Its values, the least recently used one first. Damaged files are removed; one that cannot be
  // read now (no descriptors, no permission, a failing disk) stays, and is left out. Throws
  // std::runtime_error when the folder cannot be listed.
  std::vector<Value> read();
  // Of all files of values that read() saw.
  std::uint64_t last_version() const { return last_version_; }
  // Where others put files for us. Throws std::runtime_error.
  void make_incoming();
  // There are no values in it at the end: it goes.
  void leave_nothing() { is_wanted_ = false; }
  // Counts a file as damaged and removes it.
  void remove_damaged(const std::string& path, const std::string& why);

  const std::string& path() const { return path_; }
  const std::string& incoming() const { return incoming_; }
  std::string path_of(const ValueName& name, std::uint64_t version) const;
  std::uint64_t damaged() const { return damaged_; }

 private:
  void take(const std::string& folder);
  void make_own();
  void read_file(const std::string& path, std::vector<Value>& values);

  std::string path_;
  std::string incoming_;
  bool own_ = false;
  std::string own_top_;  // goes with a folder of its own, when it is empty
  bool is_wanted_ = true;
  Descriptor lock_;
  std::uint64_t last_version_ = 0;
  std::uint64_t damaged_ = 0;
  std::uint64_t unread_ = 0;   // files that could not be read ...
  std::string unread_reason_;  // ... and why, the last of them
};

}  // namespace muster
