// The application's side of the client: any thread.
#include "producer/client/client.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "common/protocol/codec.hpp"
#include "producer/client/outcome_error.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster::detail {
namespace {

SessionId random_session() {
  std::random_device device;
  const auto half = [&] { return std::uint64_t{device()} << 32 | device(); };
  return {half() | 1, half()};  // never all zero
}

}  // namespace

Client::Client(ClientOptions options)
    : options_(std::move(options)),
      id_(random_session()),
      keeper_(std::make_shared<BlobKeeper>(id_, [this] { wake_for_blobs(); })),
      session_({id_, options_.label, limits::kAcknowledgementWindow}),
      attention_(std::chrono::steady_clock::now().time_since_epoch()),
      absence_(options_.endpoint, options_.broker_timeout) {
  reconnect();
  thread_ = std::thread([this] { run(); });
}

Client::~Client() { stop(); }

bool Client::wait_connected(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  link_changed_.wait_for(lock, timeout, [&] { return (welcomed_ && pool_known_) || refused_; });
  if (refused_) throw Error(*refused_);
  return welcomed_ && pool_known_;
}

bool Client::wait_for_slots(std::uint32_t slots, std::chrono::nanoseconds timeout) {
  const auto deadline = deadline_after(timeout);
  std::unique_lock lock(mutex_);
  const std::uint64_t failures = failures_;
  const auto enough = [&] { return pool_known_ && !unheard_ && total_slots() >= slots; };
  const auto ended = [&] { return failures_ != failures || (dead_ && failure_); };
  const auto over = [&] { return enough() || ended(); };
  if (!over()) {
    ++slot_waiters_;
    wake(lock);  // its thread now looks for a silence of the broker
    lock.lock();
    link_changed_.wait_until(lock, deadline, over);
    --slot_waiters_;
  }
  if (enough()) return true;
  if (ended()) throw Error(*failure_);
  return false;
}

void Client::stop() {
  const std::lock_guard stopping(stop_mutex_);
  if (!thread_.joinable()) return;
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    wake(lock, leader_);
    lock.lock();
    wake(lock, background_);
  }
  thread_.join();
}

// Ends the sleep of the thread that works, if it sleeps; releases the lock.
void Client::wake(std::unique_lock<std::mutex>& lock) { wake(lock, on_duty()); }

void Client::wake(std::unique_lock<std::mutex>& lock, Worker& worker) {
  const bool slept = std::exchange(worker.asleep, false);
  lock.unlock();
  if (slept) worker.bell.ring();
}

void Client::hand_in(Command&& command) {
  std::unique_lock lock(mutex_);
  if (dead_) return;
  inbox_.push_back(std::move(command));
  wake(lock);
}

JobId Client::open_job(JobSpec spec, std::shared_ptr<Sink> sink) {
  std::unique_lock lock(mutex_);
  const JobId job{++last_job_};
  if (dead_) {
    lock.unlock();
    sink->fail(Error(ErrorCode::task_cancelled, "closed", "the Producer was destroyed"));
    return job;
  }
  inbox_.emplace_back(Open{job, std::move(spec), std::move(sink)});
  wake(lock);
  return job;
}

void Client::submit(JobId job, std::vector<Payload>&& payloads) {
  std::unique_lock lock(mutex_);
  if (dead_) return;
  Submit command{job, std::move(payloads)};
  if (may_send(command.payloads.size())) {
    if (const std::unique_lock turn(turn_mutex_, std::try_to_lock); turn) {
      lock.unlock();
      send_now(command);
      return;
    }
  }
  inbox_.emplace_back(std::move(command));
  wake(lock);
}

void Client::submit_one(JobId job, Payload&& payload) {
  std::unique_lock lock(mutex_);
  if (dead_) return;
  if (may_send(1)) {
    if (const std::unique_lock turn(turn_mutex_, std::try_to_lock); turn) {
      lock.unlock();
      Submit command{job, {}};
      command.payloads.push_back(std::move(payload));
      send_now(command);
      return;
    }
  }
  Submit* last = inbox_.empty() ? nullptr : std::get_if<Submit>(&inbox_.back());
  if (last == nullptr || last->job != job) {
    last = &std::get<Submit>(inbox_.emplace_back(Submit{job, {}}));
  }
  last->payloads.push_back(std::move(payload));
  wake(lock);
}

void Client::cancel(JobId job, std::optional<TaskSequence> sequence) {
  hand_in(Cancel{job, sequence});
}
void Client::end_job(JobId job) { hand_in(End{job}); }
void Client::drop_job(JobId job) { hand_in(Drop{job}); }
void Client::hold_results(JobId job, std::uint64_t bytes) { hand_in(Hold{job, bytes}); }

std::future<message::Status> Client::request_status() {
  AskStatus command;
  std::future<message::Status> answer = command.promise.get_future();
  hand_in(std::move(command));
  return answer;
}

std::future<message::NodesAnswer> Client::request_nodes(NodeCommand command) {
  AskNodes ask{std::move(command), {}};
  std::future<message::NodesAnswer> answer = ask.promise.get_future();
  hand_in(std::move(ask));
  return answer;
}

void Client::use_store(std::string store) { hand_in(NameStore{std::move(store)}); }

std::future<StoreReply> Client::ask_store(std::uint64_t claimant, StoreQuestion question) {
  AskStore ask{claimant, std::move(question), {}};
  std::future<StoreReply> answer = ask.promise.get_future();
  hand_in(std::move(ask));
  return answer;
}

// What the keeper has to say to the session is due at a time, maybe an earlier one than before.
void Client::wake_for_blobs() {
  std::unique_lock lock(mutex_);
  turn_due_ = std::min(turn_due_, keeper_->orders_due());
  wake(lock);
}

Payload Client::pack(Bytes bytes, const std::vector<Blob>& blobs) const {
  if (bytes.size() > limits::kMaxBodyBytes && blobs.empty() && keeper_->shares()) {
    return keeper_->use({keeper_->scatter(bytes.span())}, {});
  }
  Payload body = pack_body(std::move(bytes));
  return blobs.empty() ? body : keeper_->use(blobs, body);
}

Payload Client::pack_body(Bytes bytes) const {
  if (bytes.size() > limits::kMaxPayloadBytes) {
    throw invalid_call(fmt::format("a task's arguments take {} bytes; the limit is {} (1 GiB)",
                                   bytes.size(), limits::kMaxPayloadBytes));
  }
  if (bytes.size() < limits::kLargePayloadBytes) return {std::move(bytes), 0};
  const bool pays = pack_.load(std::memory_order_relaxed);
  return pack_payload(std::move(bytes), pays ? Packing::when_smaller : Packing::never);
}

}  // namespace muster::detail
