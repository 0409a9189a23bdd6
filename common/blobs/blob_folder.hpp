// The blobs of one process and of those that share its folders: files in a folder in memory (tmpfs)
// and in one on disk, within limits. The broker's store and a node's cache are both one of these.
//
//   FOLDER/<32 hex digits>            a blob, whole and immutable
//   FOLDER/incoming/<hex>.<owner>     one that is being written; `owner`: who writes it
//   FOLDER/owners/<owner>             locked as long as that one lives (owner_mark.hpp)
//   memory FOLDER/token               a process that reads it here shares the folders
//   disk FOLDER/<hex>.file            says in which file of the user's it is (user_file.hpp)
//
// Files in `incoming` are made with mode 0644 (fchmod, whatever the umask says): only the users of
// the folder can enter it, and a broker for several users reads what others made.
//
// A blob that is pinned stays; others are kept for `keep` as long as there is room, least recently
// used ones go first. Pinned blobs beyond the memory limit move to disk: a process that opens a
// blob looks into the memory folder first, then into the disk folder, then once more. Unlinked
// files live on in the maps of those who use them.
//
// Owner: one thread; the files are safe to open from any process. Blocking: on disk input and
// output. Errors are texts that say what happened and what to do.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

struct BlobFolderOptions {
  std::string memory;  // made, with its parents, if it is not there; only its user may enter
  std::string disk;
  // Folders above these two that only Muster uses: they go when nothing is left in them.
  std::string memory_top = {};
  std::string disk_top = {};
  std::uint64_t memory_limit_bytes = 0;
  std::uint64_t disk_limit_bytes = 0;
  // While memory holds more than this, blobs that nobody pins go from there: what others write into
  // `incoming` needs room as well.
  std::uint64_t memory_cached_bytes = std::numeric_limits<std::uint64_t>::max();
  Duration keep = std::chrono::seconds(60);  // blobs that nobody pins
  bool group = false;                        // the folder's group may enter and write, too
  bool lasting = false;  // what is there is taken over, and stays when this object goes
};

class BlobFolder {
 public:
  // Also removes the folders beside its own two whose owners are gone. Throws std::runtime_error.
  explicit BlobFolder(BlobFolderOptions options);
  ~BlobFolder();
  BlobFolder(const BlobFolder&) = delete;
  BlobFolder& operator=(const BlobFolder&) = delete;

  bool holds(const BlobId& id) const;
  std::optional<std::uint64_t> size_bytes(const BlobId& id) const;
  // Of its file now, for opening (a file of the user's: from the offset on that was said); empty:
  // not held.
  std::string path(const BlobId& id) const;
  const std::string& token() const;
  std::uint64_t largest_bytes() const;       // what may ever have room
  std::vector<std::string> folders() const;  // memory, disk

  // Takes what lies in an incoming folder, or a file of the user's, as this blob; an incoming file
  // is gone in any case. `maker`: an incoming file of another user (of the system's numbers) is
  // left alone, so that nobody gives away or takes what another wrote. Returns an error text,
  // empty: done, or it was here already.
  std::string adopt(const BlobSource& source, std::optional<std::uint32_t> maker = std::nullopt);
  // Looks for `<hex>.<owner>` in both incoming folders.
  std::string adopt_from(const BlobName& name, const std::string& owner);
  bool has_incoming(const BlobId& id, const std::string& owner) const;
  // Whether adopt_from() finds room for that file now, if need be at the cost of cached blobs. It
  // takes a file away that it has no room for; one that may have room later is to wait.
  bool make_room_from(const BlobName& name, const std::string& owner);
  void discard_from(const BlobId& id, const std::string& owner);  // removes that file

  // A blob that arrives in pieces, in any order. One at a time per name.
  std::string begin(const BlobName& name);
  std::string write(const BlobId& id, std::uint64_t offset, std::span<const std::byte> piece);
  std::string finish(const BlobId& id);  // error unless every byte was written
  void abandon(const BlobId& id);

  // Reads into `piece`, all of it. Returns an error text (a file of the user's that changed).
  std::string read(const BlobId& id, std::uint64_t offset, std::span<std::byte> piece);

  // Pins are counted. `cached` false: the last unpin removes it at once.
  void pin(const BlobId& id);
  void unpin(const BlobId& id, bool cached, Time now);
  // Removes what this owner left in the incoming folders.
  void clear_incoming(const std::string& owner);
  // Ends what is due: blobs kept long enough, moves to disk, incoming files whose owners are dead,
  // or, of owners of whom nobody knows, that nobody wrote to for ten minutes, also of this object's
  // life. Returns what is no longer held.
  std::vector<BlobId> tick(Time now);
  Time next_deadline() const;

  // Why blobs beyond the memory limit do not move to disk; empty: they do.
  const std::string& trouble() const;

  std::uint64_t memory_bytes() const;
  std::uint64_t disk_bytes() const;
  std::uint64_t count() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace muster
