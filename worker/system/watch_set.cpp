#include "worker/system/watch_set.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace muster {
namespace {

constexpr int kNumberShift = 32;

std::size_t place_of(std::uint64_t tag) { return static_cast<std::uint32_t>(tag); }
std::uint32_t number_of(std::uint64_t tag) {
  return static_cast<std::uint32_t>(tag >> kNumberShift);
}

}  // namespace

WatchSet::Watched& WatchSet::Watched::operator=(Watched&& other) noexcept {
  if (this == &other) return *this;
  reset();
  set_ = std::exchange(other.set_, nullptr);
  descriptor_ = std::move(other.descriptor_);
  tag_ = std::exchange(other.tag_, 0);
  return *this;
}

void WatchSet::Watched::reset() {
  if (set_ != nullptr) {
    ::epoll_ctl(set_->epoll_.get(), EPOLL_CTL_DEL, descriptor_.get(), nullptr);
    set_->leave_place(tag_);
  }
  set_ = nullptr;
  descriptor_.reset();
}

void WatchSet::Watched::wait_for(std::uint32_t events) {
  if (set_ == nullptr) return;
  epoll_event event{events, {}};
  event.data.u64 = tag_;
  ::epoll_ctl(set_->epoll_.get(), EPOLL_CTL_MOD, descriptor_.get(), &event);
}

WatchSet::WatchSet() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) throw std::system_error(errno, std::generic_category(), "an epoll set");
}

bool WatchSet::watch(Watched& watched, Name name) {
  const std::uint64_t tag = take_place(name);
  if (!put(watched.get(), tag)) {
    leave_place(tag);
    return false;
  }
  watched.set_ = this;
  watched.tag_ = tag;
  return true;
}

void WatchSet::watch_lasting(int descriptor, Name name) {
  if (put(descriptor, take_place(name))) return;
  throw std::system_error(errno, std::generic_category(), "a watch of an epoll set");
}

void WatchSet::look() {
  next_event_ = 0;
  event_count_ = std::max(0, ::epoll_wait(epoll_.get(), events_.data(), kEventsPerTurn, 0));
}

std::optional<WatchSet::Name> WatchSet::next() {
  while (next_event_ < event_count_) {
    const std::uint64_t tag = events_[static_cast<std::size_t>(next_event_++)].data.u64;
    const Place& place = places_[place_of(tag)];
    if (place.taken && place.number == number_of(tag)) return place.name;
  }
  return std::nullopt;
}

std::uint64_t WatchSet::take_place(Name name) {
  if (free_.empty()) {
    free_.push_back(static_cast<std::uint32_t>(places_.size()));
    places_.emplace_back();
  }
  const std::uint32_t index = free_.back();
  free_.pop_back();
  Place& place = places_[index];
  ++place.number;
  place.taken = true;
  place.name = name;
  return std::uint64_t{place.number} << kNumberShift | index;
}

void WatchSet::leave_place(std::uint64_t tag) {
  const std::size_t index = place_of(tag);
  places_[index].taken = false;
  free_.push_back(static_cast<std::uint32_t>(index));
}

bool WatchSet::put(int descriptor, std::uint64_t tag) {
  epoll_event event{EPOLLIN, {}};
  event.data.u64 = tag;
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event) == 0;
}

}  // namespace muster
