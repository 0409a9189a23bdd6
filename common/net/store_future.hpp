// A reply of the pool's stores that comes over a connection. Threads: the one that waits.
#pragma once

#include <future>
#include <muster/outcome.hpp>
#include <muster/store.hpp>
#include <optional>
#include <utility>

namespace muster {

class FutureReply final : public PendingReply {
 public:
  explicit FutureReply(std::future<StoreReply> future) : future_(std::move(future)) {}
  std::optional<StoreReply> wait_for(std::chrono::nanoseconds timeout) override {
    if (!future_.valid() || future_.wait_for(timeout) != std::future_status::ready) return {};
    try {
      return future_.get();
    } catch (const std::future_error&) {
      throw Error(ErrorCode::disconnected, "closed", "the connection to the broker has ended");
    }
  }

 private:
  std::future<StoreReply> future_;
};

}  // namespace muster
