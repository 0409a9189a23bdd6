// Results: what Producer::map and as_completed return. Part of the producer's public face.
//
//   for (double score : producer.map<double>("score", items)) use(score);
//
//   auto results = producer.as_completed<double>("score", items);
//   for (auto i = results.begin(); i != results.end(); ++i) use(items[i.sequence()], *i);
//
// Owner: the application. Threads: one at a time. Blocking: begin() and `++`, until the next result
// is there, or as long as Options::broker_timeout lets them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <muster/bytes.hpp>
#include <muster/pack.hpp>
#include <muster/stream.hpp>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

namespace muster {

// A lazy range of results over a lazy range of inputs: iterating pulls inputs, keeps the window
// full (JobOptions::window) and blocks for the next result. If a task fails, `++` or begin() throws
// its Error; call `++` again to go on with the next task. Destroying the range cancels the rest.
template <typename Result, typename Inputs>
class Results {
 public:
  Results(Stream stream, Inputs inputs) : stream_(std::move(stream)), inputs_(std::move(inputs)) {}
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  struct Sentinel {};
  class Iterator {
   public:
    using value_type = Result;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    explicit Iterator(Results* results) : results_(results) {}
    // The present result; valid until the next `++`.
    const Result& operator*() const { return *results_->current_; }
    // The position of the present result's input, counted from 0.
    std::uint64_t sequence() const { return results_->sequence_; }
    Iterator& operator++() {
      results_->advance();
      return *this;
    }
    void operator++(int) { results_->advance(); }
    friend bool operator==(const Iterator& iterator, Sentinel) {
      return iterator.results_->finished();
    }

   private:
    Results* results_;
  };

  // The first call pulls inputs and waits for the first result. Later calls continue there.
  Iterator begin() {
    if (!started_) {
      position_.emplace(std::begin(deref(inputs_)));
      started_ = true;
      advance();
    }
    return Iterator(this);
  }
  Sentinel end() const { return {}; }
  // Ends every task without outcome; iterating then throws task_cancelled for each of them.
  void cancel() { stream_.cancel(); }
  // Whether there is no present result: all were taken, or the last task failed.
  bool finished() const { return !current_.has_value(); }

 private:
  template <typename T>
  static T& deref(T& value) {
    return value;
  }
  template <typename T>
  static T& deref(T*& pointer) {
    return *pointer;
  }
  using Range = std::remove_pointer_t<Inputs>;

  void fill() {
    auto last = std::end(deref(inputs_));
    while (!closed_ && stream_.has_room()) {
      if (*position_ == last) {
        closed_ = true;
        stream_.close();
        return;
      }
      push(**position_);
      ++*position_;
    }
  }
  template <typename Input>
  void push(const Input& input) {
    stream_.push(pack_arguments(arena_, input), blobs_of(input));
  }
  template <typename... Parts>
  void push(const std::tuple<Parts...>& parts) {
    std::apply(
        [&](const auto&... items) {
          stream_.push(pack_arguments(arena_, items...), blobs_of(items...));
        },
        parts);
  }
  void advance() {
    current_.reset();
    fill();
    std::optional<StreamItem> item = stream_.next();
    if (!item) return;
    sequence_ = item->sequence;
    if (item->error) throw *item->error;
    current_.emplace(unpack_value<Result>(item->result, item->blobs));
  }

  Stream stream_;
  Inputs inputs_;
  std::optional<decltype(std::begin(std::declval<Range&>()))> position_;
  std::optional<Result> current_;
  std::uint64_t sequence_ = 0;
  BytesArena arena_;
  bool started_ = false;
  bool closed_ = false;
};

}  // namespace muster
