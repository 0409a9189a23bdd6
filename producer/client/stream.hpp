// The state of a Stream: what one thread of the application pushes and pops, and the hand-over from
// the client.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <muster/producer.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "producer/client/client.hpp"
#include "producer/client/held_results.hpp"
#include "producer/session/collector.hpp"

namespace muster::detail {

struct StreamState final : Sink {
 public:
  StreamState(std::shared_ptr<Client> client, const JobOptions& options, Order order);
  void open(JobSpec spec, const std::shared_ptr<StreamState>& self);

  // The stream's thread.
  bool has_room() const;
  std::uint64_t push(Bytes payload, const std::vector<Blob>& blobs);
  void flush();
  void close();
  // Waits until `deadline` at most; nothing: no limit.
  std::optional<StreamItem> next(std::optional<std::chrono::steady_clock::time_point> deadline);
  bool timed_out() const { return timed_out_; }
  void cancel();
  void cancel(std::uint64_t sequence);
  void abandon();
  std::uint64_t pushed() const { return collector_.pushed_count(); }
  std::uint64_t returned() const { return collector_.returned_count(); }
  std::string waiting_reason() const;

  // For the client.
  void deliver(TaskSequence first, std::vector<Outcome>&& outcomes) override;
  void notice(const std::string& text) override;
  void fail(const Error& error) override;

 private:
  struct Arrived {
    TaskSequence first{};
    std::vector<Outcome> outcomes;
  };
  // Takes what arrived, waiting for it; false: `deadline` passed. Throws the failure.
  bool wait_for_more(std::optional<std::chrono::steady_clock::time_point> deadline);
  bool pool_runs_low() const;
  void settle_consumed();

  const std::shared_ptr<Client> client_;
  JobId job_{};

  Collector collector_;
  std::vector<Payload> unsent_;
  std::size_t unsent_bytes_ = 0;
  bool closed_ = false;
  bool timed_out_ = false;
  std::uint64_t consumed_bytes_ = 0;  // not yet taken off held_
  std::vector<Arrived> taken_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Arrived> arrived_;
  std::optional<Error> failure_;
  std::string waiting_reason_;
  bool waiting_ = false;
  bool dropped_ = false;
  HeldResults held_;
};

}  // namespace muster::detail
