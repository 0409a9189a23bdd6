// The blobs of tasks, as the process sees them that runs the tasks: opens those that a payload
// names and writes those of results, in the folder that the worker daemon keeps for that
// (docs/protocol.md, "Blobs"):
//
//   FOLDER/memory, FOLDER/disk              blobs by name; both may be links to the broker's
//   FOLDER/memory/incoming/<hex>.<owner>    a result, until the receiver of the outcome takes it
//   FOLDER/shares                           is there: the producer's files are seen here, too
//
// Owner: the runner link, or an executor of the daemon. Threads: any, at once. Blocking: on disk
// input and output.
#pragma once

#include <cstdint>
#include <memory>
#include <muster/blob.hpp>
#include <mutex>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

// Where blobs are. Empty: nowhere, and every payload carries its bytes itself.
struct BlobHome {
  std::string folder;
  std::string owner;  // the worker's id in hex
  // What the worker daemon has put into MUSTER_BLOBS and MUSTER_BLOB_OWNER.
  static BlobHome from_environment();
};

// So long a result waits for room: until the program has consumed others.
inline constexpr Duration kResultPatience = std::chrono::minutes(1);

// A result cannot be written: there is no room, or the text says what else.
class NoRoomError : public BlobError {
 public:
  using BlobError::BlobError;
};
// It has more parts, or more bytes in one message, than can travel.
class TooLargeError : public BlobError {
 public:
  using BlobError::BlobError;
};

// A payload for use: its body unpacked, its blobs mapped.
struct OpenPayload {
  Bytes body;
  std::vector<Blob> blobs;
};

class TaskBlobs {
 public:
  // Maps of blobs that the last task had live for this long: the next one often has the same.
  static constexpr Duration kKeptMaps = std::chrono::seconds(1);

  // `room_patience`: how long make() waits while the file systems are full.
  explicit TaskBlobs(BlobHome home, Duration room_patience = Duration{0});
  TaskBlobs(const TaskBlobs&) = delete;
  TaskBlobs& operator=(const TaskBlobs&) = delete;

  bool available() const { return !home_->folder.empty(); }
  bool shares_files() const;

  // The blobs that the payload names, in order, all of them mapped. Throws BlobError.
  std::vector<Blob> open(const Payload& payload, Time now);
  // The whole payload. `what` it is called when it is damaged.
  std::variant<OpenPayload, Failure> unpack(const Payload& payload, const char* what, Time now);
  // One more for a result: these parts in a row. Unless `payload_of` names it, its file goes with
  // the last handle, or with this process. Blocks while there is no room, up to `room_patience`.
  // Throws NoRoomError.
  Blob make(std::span<const std::span<const std::byte>> parts) const;
  // A result of this body and these blobs. A large body becomes a blob, unless results are inline;
  // blobs that were not made here are copied. Throws BlobError.
  Payload payload_of(Bytes body, const std::vector<Blob>& blobs, bool inline_results = false) const;

  // Ends maps that were kept long enough; `next_deadline`: when to call it.
  void tick(Time now);
  Time next_deadline() const;

  const std::shared_ptr<const BlobHome>& home() const { return home_; }

 private:
  class Delivery;

  const std::shared_ptr<const BlobHome> home_;
  const Duration room_patience_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Blob> kept_;    // of the last payload that was opened
  Time kept_until_ = kNever;
};

// Removes the blobs of a result that nobody will get.
void discard_result(const BlobHome& home, const Payload& payload);

// Of the body and the blobs.
std::uint64_t size_of_result(const Bytes& body, const std::vector<Blob>& blobs);

// The failure of a task whose blobs are gone, or whose result finds no room or is too large.
Failure blob_failure(const BlobError& error);

}  // namespace muster
