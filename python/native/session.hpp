// A producer and its channel, shared by Python threads that wait in it and one that closes it.
//
// Owner: a `muster._native.Producer`. Threads: any. Blocking: close(), and what `use` is given to
// run; neither may be called with the GIL held where it blocks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <muster/producer.hpp>
#include <mutex>
#include <string>
#include <utility>

#include "python/native/convert.hpp"

namespace muster::python {

struct Native {
  explicit Native(const Options& options) : producer(options), channel(producer.channel()) {}
  Producer producer;
  Channel channel;
};

class Session {
 public:
  explicit Session(std::unique_ptr<Native> native)
      : generation_(fork_generation()),
        endpoint_(native->producer.endpoint()),
        native_(std::move(native)) {}
  ~Session() {
    if (forked()) {
      static_cast<void>(native_.release());  // its threads are the parent's
    } else {
      close();
    }
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  bool closed() const { return closed_; }

  // Runs `function(native)`; close() waits for it. Throws ErrorCode::disconnected once closed.
  template <typename Function>
  auto use(const Function& function) {
    const Use in_use(*this);
    return function(*native_);
  }

  // Ends every `use` (waiters by a wake), then the session. Again: waits for the first to be done.
  void close() {
    if (forked()) return;
    std::unique_lock lock(mutex_);
    if (!closed_.exchange(true) && native_) native_->channel.wake();
    changed_.wait(lock, [this] { return users_ == 0 && !closing_; });
    closing_ = true;
    std::unique_ptr<Native> native = std::move(native_);
    lock.unlock();
    native.reset();
    lock.lock();
    closing_ = false;
    changed_.notify_all();
  }

  void wake() {
    ++wakes_;
    if (closed_) return;
    use([](Native& native) { native.channel.wake(); });
  }
  // Whether there was a wake that nobody took yet.
  bool take_wake() {
    std::uint64_t waiting = wakes_;
    while (waiting > 0 && !wakes_.compare_exchange_weak(waiting, 0)) {
    }
    return waiting > 0;
  }

 private:
  class Use {
   public:
    explicit Use(Session& session) : session_(session) {
      const std::lock_guard lock(session_.mutex_);
      if (session_.closed_ || session_.forked()) {
        throw Error(ErrorCode::disconnected, "closed",
                    session_.closed_ ? "the pool is closed"
                                     : "the pool belongs to the process that forked this one");
      }
      ++session_.users_;
    }
    ~Use() {
      const std::lock_guard lock(session_.mutex_);
      --session_.users_;
      session_.changed_.notify_all();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Session& session_;
  };

  bool forked() const { return generation_ != fork_generation(); }

  const unsigned generation_;
  const std::string endpoint_;
  std::atomic<bool> closed_{false};
  std::atomic<std::uint64_t> wakes_{0};
  std::mutex mutex_;  // never held while something blocks or the GIL is taken
  std::condition_variable changed_;
  unsigned users_ = 0;
  bool closing_ = false;
  std::unique_ptr<Native> native_;
};

}  // namespace muster::python
