// The blobs of one producer: written once into the broker's folders, kept there while a handle or a
// task uses them, let go afterwards.
//
// Two kinds of uses are counted for each blob: handles (a BlobFile, shared by its Blobs) and
// payloads (of tasks without outcome, of open jobs). A payload counts as long as its bytes live
// anywhere: the session drops them with the outcome. Who needs more room than the broker grants, or
// than the file systems have, waits for payloads to end; who only needs more memory waits for that
// as long as writing to disk would take.
//
// Owner: a Client, and every handle and payload: they may outlive the Client, which closes this.
// Threads: any. Blocking: put(), await_room() and use(), while there is no room and for disk input
// and output.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <muster/blob.hpp>
#include <muster/outcome.hpp>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "producer/blobs/blob_files.hpp"
#include "producer/session/session.hpp"

namespace muster::detail {

class KeptFile;

class BlobKeeper final : public std::enable_shared_from_this<BlobKeeper> {
 public:
  using Deadline = std::optional<std::chrono::steady_clock::time_point>;  // nothing: no limit
  // What the session is to be told: to put a blob, or to release one.
  struct Release {
    BlobSource source;
  };
  using Order = std::variant<BlobSource, Release>;

  // `wake` may be called on any thread: orders_due() became earlier.
  BlobKeeper(const SessionId& session, std::function<void()> wake);

  // --- For applications. They throw Error unusable when shares() is false, out_of_space when there
  // is no room and nothing will make some, disconnected or refused when waiting became useless.
  bool shares() const { return shares_.load(std::memory_order_relaxed); }
  // No blob: `deadline` passed before there was room.
  Blob scatter(std::span<const std::byte> content, Deadline deadline = std::nullopt);
  Blob scatter_file(const std::string& path, std::uint64_t offset, std::uint64_t size_bytes);
  Blob scatter_copy(const std::string& path);
  // False: `deadline` passed.
  bool await_room(std::uint64_t size_bytes, Deadline deadline);
  // A payload of these blobs and this body; they stay while its bytes live.
  Payload use(const std::vector<Blob>& blobs, const Payload& body);

  // --- For the client, one thread at a time.
  void take_terms(const BlobTerms& terms);
  // The broker has folders that this process does not see, or none: no blobs reach it.
  bool is_apart() const { return apart_.load(std::memory_order_relaxed); }
  // In this order, before what was submitted after them. Empty until they are due.
  std::vector<Order> take_orders(Time now);
  Time orders_due() const { return Time{due_.load(std::memory_order_acquire)}; }
  // What the session is to say, if the broker misses a blob that can be written again.
  std::optional<BlobSource> answered(const BlobAnswer& answer);
  // No broker was told of a blob that was released.
  void discard(const BlobSource& source);
  // The blobs of an outcome's body stay while its bytes live (held_blobs).
  void hold(Payload& body);
  // A task that ended for want of a blob: says why the broker refused one, if it did.
  void explain(Outcome& outcome) const;
  // Whether a thread waits for room.
  bool awaited() const;
  // Ends every wait for room.
  void fail(const Error& error);
  // The same; from now on nothing is put.
  void close();

 private:
  friend class KeptFile;
  friend struct PayloadUses;
  using Lock = std::unique_lock<std::mutex>;

  enum class Origin : std::uint8_t { written, file, result };
  struct Entry {
    BlobSource source;
    Origin origin = Origin::written;
    std::uint32_t handles = 0;
    std::uint32_t payloads = 0;
    bool writing = false;  // stays; another thread may be waiting for it
    std::string lost;      // why it cannot be had any more
    std::weak_ptr<const KeptFile> handle;
  };
  using Entries = std::unordered_map<BlobId, Entry>;

  Blob put(const BlobName& name, const ContentWriter& content, Deadline deadline = std::nullopt);
  Blob put_file(BlobSource source);
  Entry* find_ready(Lock& lock, const BlobId& id);
  // How long something has been so; who waits may do so in many short waits.
  struct Since {
    Time begin{kNever};
    Time seen{};
    Time at(Time now);  // it is so now
  };

  bool make_room(Lock& lock, std::uint64_t size_bytes, Deadline deadline, bool wants_memory);
  Time waits_until(std::uint64_t size_bytes, bool wants_memory, Time now);
  bool is_known_full(std::uint64_t size_bytes) const;
  bool await_files(Lock& lock, std::uint64_t size_bytes, Deadline deadline);
  bool write(Lock& lock, Entry& entry, const ContentWriter& content);
  Blob handle_of(Entry& entry);
  BlobId own(const Blob& blob, std::vector<Blob>& put_here);
  void check_usable() const;
  bool frees_room(const Entry& entry) const;
  template <typename Change>
  void change(Entry& entry, const Change& change);
  void add_payload(Entry& entry);
  void settle(Entry& entry);
  void order(Order&& order);
  void ring(Lock& lock);
  void handle_gone(const BlobId& id);
  void payload_gone(const std::vector<BlobId>& ids);
  BlobFile::Opened open(const KeptFile& file);

  const pid_t process_;
  const std::string owner_;
  std::atomic<bool> shares_{false};
  std::atomic<bool> apart_{false};   // neither before the first terms
  std::atomic<bool> others_{false};  // the broker is another user's
  std::atomic<Time::rep> due_{kNever.count()};
  std::atomic<bool> refused_{false};  // refusal_ says something

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> wake_;
  BlobFolders folders_;
  std::uint64_t credit_bytes_ = 0;
  std::uint64_t credit_memory_bytes_ = 0;
  Entries entries_;
  std::vector<Order> orders_;
  std::uint64_t released_bytes_ = 0;  // of the releases in orders_
  std::uint64_t used_bytes_ = 0;      // written and not released
  std::uint64_t memory_bytes_ = 0;    // ... into the folder in memory
  std::uint64_t freeable_bytes_ = 0;  // ... which only payloads use
  unsigned waiters_ = 0;              // for room
  Since hopeless_;                    // only handles could make room
  Since memory_short_;                // there is room, but not in memory
  Since files_short_;            // there is room, but the file systems are full of others' data
  std::string files_full_;       // they were when something was last written; says so
  std::string refusal_;          // the latest
  std::uint64_t last_file_ = 0;  // numbers what is written or linked
  std::uint64_t failures_ = 0;
  std::optional<Error> failure_;
  bool closed_ = false;
};

// The blobs that an outcome's body names, in order. They do not depend on its bytes any more.
// Precondition: hold() has seen the body, or it names none.
std::vector<Blob> take_blobs(Payload& body);

}  // namespace muster::detail
