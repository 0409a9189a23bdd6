// What a BlobFolder knows and does behind its face: which blobs there are, who goes when room is
// short, moves to disk. Internal to blob_folder*.cpp; one thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/blobs/blob_folder.hpp"
#include "common/blobs/blob_mover.hpp"
#include "common/blobs/blob_shelf.hpp"
#include "common/blobs/file_closer.hpp"

namespace muster {

// Which bytes of a blob were written.
class WrittenRanges {
 public:
  void add(std::uint64_t begin, std::uint64_t end) {
    auto next = pieces_.upper_bound(begin);
    if (next != pieces_.begin() && std::prev(next)->second >= begin) {
      --next;
      begin = next->first;
    }
    while (next != pieces_.end() && next->first <= end) {
      end = std::max(end, next->second);
      next = pieces_.erase(next);
    }
    pieces_[begin] = end;
  }
  bool covers(std::uint64_t size) const {
    return size == 0 ||
           (pieces_.size() == 1 && pieces_.begin()->first == 0 && pieces_.begin()->second >= size);
  }

 private:
  std::map<std::uint64_t, std::uint64_t> pieces_;  // begin, end
};

class BlobFolder::State {
 public:
  enum class Place : std::uint8_t { memory, disk, file };
  struct Entry {
    std::uint64_t size = 0;
    Place place = Place::memory;
    std::uint32_t pins = 0;
    bool moving = false;
    std::uint64_t use = 0;       // counts uses of all blobs: the least is the longest ago
    Time unused_since = kNever;  // unpinned: kNever until the next tick
    UserFile source = {};        // place `file`
  };
  struct Partial {  // a blob that arrives in pieces
    std::uint64_t size = 0;
    Place place = Place::memory;
    Descriptor file;
    std::uint64_t promised = 0;
    WrittenRanges written;
  };

  explicit State(BlobFolderOptions its_options);

  BlobShelf& shelf(Place place) { return place == Place::memory ? memory : disk; }
  Entry& add(const BlobName& name, Place place);
  // It is used now. Also puts it into the lists where it belongs.
  void touch(const BlobId& id, Entry& entry);
  void remove(const BlobId& id);
  // Makes room in one of the folders, if need be at the cost of cached blobs.
  bool make_room(Place place, std::uint64_t size);
  // Where a new blob of this size goes, which has room there then.
  std::optional<Place> room_for(std::uint64_t size);
  // Whether a file that is there already may stay, in memory after others have moved to disk.
  bool may_stay(Place place, std::uint64_t size);
  std::string adopt_incoming(const BlobName& name, Place place, const std::string& file,
                             std::optional<std::uint32_t> maker);
  std::string adopt_file(const BlobSource& source);
  int start_partial(const BlobName& name, Place place);  // errno, or 0
  void keep_promise(Partial& partial, std::uint64_t bytes);
  // Drops the blobs that nobody used long enough.
  void expire(Time now);
  std::map<std::uint64_t, BlobId>& unpinned_in(Place place) {
    return unpinned[static_cast<std::size_t>(place)];
  }
  std::string no_room(std::uint64_t size) const;
  // Blobs in memory that nobody pinned go until the limits are kept; what pinned ones take beyond
  // them moves to disk.
  void settle(Time now);
  void end_moves(Time now);

  const BlobFolderOptions options;
  BlobShelf memory;
  BlobShelf disk;
  const std::string token;
  std::unordered_map<BlobId, Entry> entries;
  std::unordered_map<BlobId, Partial> partials;
  // By use, each place's own.
  std::array<std::map<std::uint64_t, BlobId>, 3> unpinned;
  std::map<std::uint64_t, BlobId> in_memory;
  std::vector<BlobId> fresh;  // unused since the next tick
  std::vector<BlobId> gone;   // not yet told by tick()
  Time last_tick{0};
  Time next_look{0};   // at incoming files
  Time first_look{0};  // zero: not yet
  std::string trouble;
  BlobMover mover;
  FileCloser closer;

 private:
  void take_over();
  void unlist(const Entry& entry);
  void drop_file(const BlobId& id, const Entry& entry);
  bool evict(Place place);
  bool start_move(Time now);
  void trouble_with_disk(int error, Time now);

  std::uint64_t last_use_ = 0;
  std::uint64_t moving_bytes_ = 0;  // in memory still, and counted on disk already
  std::unordered_set<BlobId> moves_;
  Time disk_again_{Time::min()};
};

}  // namespace muster
