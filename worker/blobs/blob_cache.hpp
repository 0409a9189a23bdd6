// What this node has of the broker's blobs, and what it is about to get: decides which pieces to
// ask for, writes what comes to the folders, and serves what tasks returned.
//
// Blobs are brought in the order in which they were asked for, several at a time, and small ones
// pass large ones, so that nothing small waits behind something whole. A connection that breaks
// costs the pieces that were on their way, no more.
//
// Owned by the bulk link's thread. Blocks for files only; no sockets, no clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/blobs/blob_folder.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "worker/agent/blob_request.hpp"

namespace muster {

class BlobCache {
 public:
  // `owner`: how this worker's tasks end the names of what they return. `most_bytes`: the largest
  // blob that there can be room for.
  BlobCache(BlobFolder& folder, std::string owner, std::uint64_t most_bytes);

  void obey(const BlobRequest& request, Time now);

  // The broker welcomed this connection.
  void connected(Time now);
  void disconnected();
  void receive(message::BlobChunk& chunk, Time now);
  void receive(const message::BlobGone& gone, Time now);
  void receive(const message::BlobWant& want);

  // The broker was restarted, and may have to hear from producers first what it had.
  void be_patient(Time now);

  void tick(Time now);
  Time next_deadline() const;

  // What is to be said on this connection, and to the worker's loop, since the last call.
  std::vector<Message> take_messages();
  std::vector<BlobReport> take_reports();

  // Something is to come, or may be asked for.
  bool needs_connection() const { return !coming_.empty() || !results_.empty(); }
  // Pieces that were asked for have not come.
  bool expects() const { return !asked_.empty(); }

 private:
  struct Piece {
    std::uint64_t offset = 0;
    std::uint32_t bytes = 0;
  };
  struct Coming {
    BlobName name;
    std::uint64_t order = 0;
    bool begun = false;        // there is room for it, and a file
    std::uint64_t next = 0;    // offset of what was never asked for
    std::uint64_t left = 0;    // bytes that have not come
    std::vector<Piece> again;  // asked for on a connection that broke
    Time not_before{};         // the broker did not have it: ask again then
    bool failed_once = false;
  };
  struct Asked {  // in the order in which the broker answers
    BlobId blob;
    Piece piece;
    bool wanted = true;  // else the answer is only awaited: nobody needs it any more
  };

  void fetch(const BlobName& name);
  void release(const BlobName& name, Time now);
  void keep(const BlobName& name);
  void drop(const BlobName& name, Time now);

  void go_on(Time now);
  void begin_some(Time now);
  bool begin(Coming& coming);
  void ask_for_pieces(Time now);
  Coming* next_to_ask(Time now);
  bool lacks_pieces(const Coming& coming, Time now) const;
  void put_back(const BlobId& id);
  void stop_wanting(const BlobId& id);
  void end(const BlobId& id);
  void arrived(const BlobId& id);
  void fail(const BlobId& id, const std::string& reason);
  void start_over(const BlobId& id, const std::string& reason);
  void forget(const BlobId& id);

  BlobFolder& folder_;
  const std::string owner_;
  const std::uint64_t most_bytes_;
  bool connected_ = false;
  Time patient_until_{};  // a restarted broker may still get what it does not have

  std::unordered_map<BlobId, Coming> coming_;
  std::map<std::uint64_t, BlobId> pending_;        // not begun, by order
  std::map<std::uint64_t, BlobId> small_pending_;  // the small ones among them
  std::vector<BlobId> begun_;
  std::vector<Asked> asked_;
  std::uint64_t next_order_ = 0;
  std::uint64_t turns_ = 0;
  std::unordered_set<BlobId> here_;  // fetched, pinned until released
  // Kept, pinned until dropped; or why that could not be.
  std::unordered_map<BlobId, std::string> results_;

  std::uint64_t releases_ = 0;
  BlobReport blocked_;  // the last that was reported
  Time try_again_ = kNever;
  std::vector<Message> messages_;
  std::vector<BlobReport> reports_;
};

}  // namespace muster
