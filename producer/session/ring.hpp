// A queue whose elements are named by consecutive numbers: element `number` is found in O(1) from
// begin() to end(). Grows by doubling, never allocates per element. Owner: its holder.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace muster {

template <typename Element>
class Ring {
 public:
  std::uint64_t begin() const { return begin_; }
  std::uint64_t end() const { return end_; }
  std::uint64_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }

  // Precondition: begin() <= number < end().
  Element& operator[](std::uint64_t number) { return slots_[number & (slots_.size() - 1)]; }
  const Element& operator[](std::uint64_t number) const {
    return slots_[number & (slots_.size() - 1)];
  }
  Element& front() { return (*this)[begin_]; }

  // The number of the new element is the old end().
  void push(Element element) {
    if (size() == slots_.size()) grow();
    (*this)[end_++] = std::move(element);
  }
  void pop_front() {
    front() = Element();
    ++begin_;
    if (empty() && slots_.size() > kKeptSlots) std::vector<Element>().swap(slots_);
  }

 private:
  static constexpr std::size_t kKeptSlots = 65'536;  // an emptied ring keeps at most this many

  void grow() {
    std::vector<Element> larger(std::max<std::size_t>(16, slots_.size() * 2));
    for (std::uint64_t number = begin_; number != end_; ++number) {
      larger[number & (larger.size() - 1)] = std::move((*this)[number]);
    }
    slots_ = std::move(larger);
  }

  std::vector<Element> slots_;  // a power of two of them
  std::uint64_t begin_ = 0;
  std::uint64_t end_ = 0;
};

}  // namespace muster
