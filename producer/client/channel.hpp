// The state of a Channel: many jobs, one queue of outcomes.
//
// Threads: any. One mutex guards everything, and tasks are numbered and handed to the client under
// it: both count alike.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <muster/producer.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "producer/client/client.hpp"
#include "producer/client/held_results.hpp"

namespace muster::detail {

struct ChannelState final : std::enable_shared_from_this<ChannelState> {
 public:
  explicit ChannelState(std::shared_ptr<Client> client) : client_(std::move(client)) {}

  std::uint32_t open(const FunctionName& function, const JobOptions& options, ResultsCount count);
  std::uint64_t push(std::uint32_t job, Bytes payload, const std::vector<Blob>& blobs);
  void cancel(std::uint32_t job, std::optional<std::uint64_t> sequence);
  void consumed(std::uint32_t job, std::uint64_t bytes);
  void close(std::uint32_t job);
  void drop(std::uint32_t job);
  std::vector<ChannelOutcome> next(std::chrono::nanoseconds timeout, std::size_t most);
  void wake();
  std::string waiting_reason(std::uint32_t job) const;
  void abandon();  // drops every job

 private:
  // One job. What the client tells it goes to the channel, as long as that lives.
  struct Receiver final : Sink {
    explicit Receiver(std::weak_ptr<ChannelState> its_channel) : channel(std::move(its_channel)) {}
    void deliver(TaskSequence first, std::vector<Outcome>&& outcomes) override;
    void notice(const std::string& text) override;
    void fail(const Error& error) override;

    const std::weak_ptr<ChannelState> channel;
    // Guarded by the channel's mutex.
    std::uint32_t job = 0;
    std::uint64_t pushed = 0;
    std::uint64_t delivered = 0;
    bool closed = false;
    bool dropped = false;
    std::optional<Error> failure;
    std::string waiting_reason;
  };
  struct Arrived {
    std::uint32_t job = 0;
    std::uint64_t sequence = 0;
    Outcome outcome;
  };

  // What a job holds, also when it is closed and has all of its outcomes.
  struct Held {
    HeldResults results;
    ResultsCount count = ResultsCount::until_taken;
  };
  // Some results of a job that next() returned.
  struct Taken {
    std::uint32_t job = 0;
    std::uint64_t arrived_bytes = 0;
    std::uint64_t unpacked_bytes = 0;
  };

  Receiver& open_one(std::uint32_t job);
  void forget(std::uint32_t job);
  void hold(std::uint32_t job, std::uint64_t bytes);
  void settle(const std::vector<Taken>& taken);
  void let_go(std::uint32_t job, std::uint64_t bytes);
  std::vector<Arrived> take(std::chrono::nanoseconds timeout, std::size_t most);

  const std::shared_ptr<Client> client_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Until a job is closed and has its outcomes; a failed one until it is closed.
  std::unordered_map<std::uint32_t, std::shared_ptr<Receiver>> jobs_;
  std::unordered_map<std::uint32_t, Held> held_;  // of each of jobs_, and while there is something
  std::deque<Arrived> arrived_;
  std::optional<Error> failure_;  // what ended the jobs that were open then
  bool failure_told_ = false;
  unsigned waiters_ = 0;
  bool woken_ = false;
};

}  // namespace muster::detail
