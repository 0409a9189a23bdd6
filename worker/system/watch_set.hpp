// The descriptors of one executor (or other part of the loop) that are watched, as one epoll set.
//
// A descriptor leaves the set before it is closed. Closing alone does not take it out: a child that
// is just being executed holds a copy of each of our descriptors for a moment, and as long as a
// copy is open, the set goes on reporting it, under the name of what is there now. So the set owns
// what it watches, and each watch has a number of its own: an event of one that is over is dropped,
// whatever has taken its place.
//
// Owner: one thread, the loop's. A set outlives its watches.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "common/system/descriptor.hpp"

namespace muster {

class WatchSet {
 public:
  // What a watch is about, in the words of the set's owner.
  struct Name {
    std::uint32_t slot = 0;
    std::uint32_t source = 0;
  };

  // A descriptor that leaves its set before it is closed. It may be in none yet, or be empty.
  class Watched {
   public:
    Watched() = default;
    explicit Watched(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}
    ~Watched() { reset(); }
    Watched(Watched&& other) noexcept { *this = std::move(other); }
    Watched& operator=(Watched&& other) noexcept;
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;

    int get() const { return descriptor_.get(); }
    explicit operator bool() const { return static_cast<bool>(descriptor_); }
    // Takes it out of the set, then closes it.
    void reset();
    // What to wait for from now on: EPOLLIN, EPOLLOUT or both.
    void wait_for(std::uint32_t events);

   private:
    friend class WatchSet;
    WatchSet* set_ = nullptr;
    Descriptor descriptor_;
    std::uint64_t tag_ = 0;
  };

  WatchSet();
  WatchSet(const WatchSet&) = delete;
  WatchSet& operator=(const WatchSet&) = delete;

  // Readable while a watched descriptor is ready.
  int descriptor() const { return epoll_.get(); }

  // Watches it for input, once. False: the kernel has no room for another watch; it stays open, and
  // somebody has to look at it from time to time.
  bool watch(Watched& watched, Name name);
  // Watches a descriptor of somebody else's, who closes it after the end of this set. Throws
  // std::system_error.
  void watch_lasting(int descriptor, Name name);

  // What is ready now: call `next` until it returns nothing. One turn takes a bounded number; what
  // is left keeps `descriptor` readable. Watches may come and go between two calls of `next`.
  void look();
  std::optional<Name> next();

 private:
  static constexpr int kEventsPerTurn = 64;
  struct Place {
    std::uint32_t number = 0;  // how many watches had this place: with the place it makes a tag
    bool taken = false;
    Name name;
  };

  std::uint64_t take_place(Name name);
  void leave_place(std::uint64_t tag);
  bool put(int descriptor, std::uint64_t tag);

  Descriptor epoll_;
  std::vector<Place> places_;
  std::vector<std::uint32_t> free_;  // of `places_`
  std::array<epoll_event, kEventsPerTurn> events_;
  int event_count_ = 0;
  int next_event_ = 0;
};

using Watched = WatchSet::Watched;

}  // namespace muster
