// The values of the pool's stores: files in one folder, their index in memory, a limit for all of
// them together, least recently used ones go first.
//
//   FOLDER/lock                      held by the broker that uses the folder
//   FOLDER/incoming-<16 hex>/NAME    a value that is being written, by us or by who shares it
//   FOLDER/<2 hex>/<32 hex>.<16 hex> a value: its content, what is said of it, store, key, digests
//
// Durability: a value is written under another name and moved into place, so that it is there
// either whole or not at all when the broker is killed. Nothing is forced to the disk: after a
// crash of the machine the latest values may be missing or damaged. A damaged file is noticed by
// its digests, removed and counted. One that cannot be opened or read for another reason is kept:
// for an asker there is no value then. The time of last access is the file's modification time.
//
// Owner: the store server's thread, or a test. Blocking: on input and output of files.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <muster/store.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "broker/stores/store_claims.hpp"
#include "broker/stores/store_folder.hpp"
#include "broker/stores/value_file.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

struct StoreOptions {
  std::string folder = {};  // empty: one of its own, in the user's cache folder, removed at the end
  std::uint64_t limit_bytes = 0;        // 0: a quarter of what is free there, at most 10 GiB
  std::size_t limit_items = 1'000'000;  // what the index takes is then some hundred megabytes
};

class ValueStore {
 public:
  // Takes the folder and reads the index from its files. Throws std::runtime_error.
  explicit ValueStore(const StoreOptions& options);
  ~ValueStore();  // removes the folder if it is its own, or empty
  ValueStore(const ValueStore&) = delete;
  ValueStore& operator=(const ValueStore&) = delete;

  struct Found {
    std::uint64_t size_bytes = 0;
    std::uint64_t version = 0;
    std::string text;
    std::string file;  // its path
    Bytes value;       // if it is of one piece
  };
  // An access: it makes the value the most recently used one.
  std::optional<Found> find(const ValueName& name);
  bool has(const ValueName& name) const { return entries_.count(name) != 0; }
  // The same without the value, and no access.
  std::optional<Found> look_at(const ValueName& name);
  // Nothing: the value is gone, or another now, or the piece is not in it.
  std::optional<Bytes> read(const ValueName& name, std::uint64_t version, std::uint64_t offset,
                            std::size_t size_bytes);

  // A value that arrives in pieces, in order. It ends before its store.
  class Upload {
   public:
    ~Upload();
    Upload(const Upload&) = delete;
    Upload& operator=(const Upload&) = delete;
    std::uint64_t received_bytes() const { return received_bytes_; }
    std::uint64_t size_bytes() const { return size_bytes_; }
    std::string append(std::span<const std::byte> piece);  // an error text, empty: done

   private:
    friend class ValueStore;
    explicit Upload(ValueStore& store) : store_(store) {}
    ValueStore& store_;
    std::string path_;
    Descriptor file_;
    std::uint64_t size_bytes_ = 0;
    std::uint64_t received_bytes_ = 0;
    Digest digest_ = begin_digest();
  };
  // What these return is an error text; empty: done.
  std::string begin(std::uint64_t size_bytes, std::unique_ptr<Upload>& upload);
  std::string finish(const ValueName& name, const std::string& text, Upload& upload);
  std::string put(const ValueName& name, const std::string& text, const Bytes& value);
  // The value is a file that somebody wrote to `incoming()`.
  std::string adopt(const ValueName& name, const std::string& text, const std::string& file,
                    std::uint64_t size_bytes);
  const std::string& incoming() const { return folder_.incoming(); }

  void remove(const ValueName& name);
  void remove_all(const std::string& store, const std::string& prefix);
  // Returns how many went.
  std::uint64_t trim(const std::string& store, const StoreLimits& limits);
  std::vector<StoreEntry> list(const ValueName& after, const std::string& prefix) const;

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t items() const { return entries_.size(); }
  std::uint64_t evicted() const { return evicted_; }
  std::uint64_t damaged() const { return folder_.damaged(); }
  const std::string& folder() const { return folder_.path(); }

 private:
  struct Entry;
  using Entries = std::map<ValueName, Entry>;
  using Order = std::list<Entries::iterator>;  // the least recently used one first
  struct Entry {
    std::uint64_t size_bytes = 0;
    std::uint64_t version = 0;
    std::uint64_t accessed_ms = 0;
    std::uint64_t touched_ms = 0;  // the file's time
    std::uint64_t hits = 0;
    bool checked = false;  // the content has the digest that it should have
    Order::iterator place;
  };

  void read_index();
  std::optional<Found> open(const ValueName& name, Entries::iterator entry, Descriptor& file);
  std::string make_room(std::uint64_t size_bytes);
  std::string publish(const ValueName& name, const std::string& text, Upload& upload);
  void add(const ValueName& name, const Entry& entry);
  void drop(Entries::iterator entry);

  StoreFolder folder_;
  std::uint64_t limit_bytes_ = 0;
  std::size_t limit_items_ = 0;
  Entries entries_;
  Order order_;
  std::uint64_t bytes_ = 0;
  std::uint64_t arriving_bytes_ = 0;  // of all uploads
  std::uint64_t last_version_ = 0;
  std::uint64_t last_file_ = 0;
  std::uint64_t evicted_ = 0;
  std::uint64_t unreadable_ = 0;  // times that a value could not be read, but stays
};

}  // namespace muster
