#include "producer/client/channel.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/protocol/blob_names.hpp"
#include "producer/client/job_spec.hpp"
#include "producer/client/outcome_error.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster {
namespace detail {

std::uint32_t ChannelState::open(const FunctionName& function, const JobOptions& options,
                                 ResultsCount count) {
  JobSpec spec = spec_of(*client_, function, options);
  const auto receiver = std::make_shared<Receiver>(weak_from_this());
  // Not under the mutex: a client that has ended calls fail() at once.
  const std::uint32_t job = value(client_->open_job(std::move(spec), receiver));
  const std::lock_guard lock(mutex_);
  receiver->job = job;
  jobs_[job] = receiver;
  held_[job].count = count;
  if (!receiver->failure && std::exchange(failure_told_, false)) failure_.reset();
  return job;
}

ChannelState::Receiver& ChannelState::open_one(std::uint32_t job) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end() || found->second->closed) {
    throw invalid_call(fmt::format("job {} of this channel is not open", job));
  }
  return *found->second;
}

std::uint64_t ChannelState::push(std::uint32_t job, Bytes payload, const std::vector<Blob>& blobs) {
  Payload packed = client_->pack(std::move(payload), blobs);
  const std::lock_guard lock(mutex_);
  Receiver& receiver = open_one(job);
  if (receiver.failure) throw *receiver.failure;
  client_->submit_one(JobId{job}, std::move(packed));
  return receiver.pushed++;
}

void ChannelState::cancel(std::uint32_t job, std::optional<std::uint64_t> sequence) {
  const std::lock_guard lock(mutex_);
  if (jobs_.count(job) == 0) return;
  client_->cancel(JobId{job}, sequence ? std::optional(TaskSequence{*sequence}) : std::nullopt);
}

void ChannelState::close(std::uint32_t job) {
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(job);
  if (found == jobs_.end() || std::exchange(found->second->closed, true)) return;
  client_->end_job(JobId{job});
  const Receiver& receiver = *found->second;
  if (receiver.failure || receiver.delivered == receiver.pushed) forget(job);
}

// No outcome of it comes any more.
void ChannelState::forget(std::uint32_t job) {
  jobs_.erase(job);
  const auto found = held_.find(job);
  if (found != held_.end() && found->second.results.bytes() == 0) held_.erase(found);
}

void ChannelState::hold(std::uint32_t job, std::uint64_t bytes) {
  const auto found = held_.find(job);
  if (found == held_.end()) return;  // dropped
  const auto worth_saying = found->second.results.add(bytes);
  if (worth_saying) client_->hold_results(JobId{job}, *worth_saying);
}

void ChannelState::let_go(std::uint32_t job, std::uint64_t bytes) {
  const auto found = held_.find(job);
  if (found == held_.end()) return;
  const auto worth_saying = found->second.results.remove(bytes);
  if (worth_saying) client_->hold_results(JobId{job}, *worth_saying);
  if (found->second.results.bytes() == 0 && jobs_.count(job) == 0) held_.erase(found);
}

// What was counted as it arrived, packed, counts unpacked from now on, or no longer.
void ChannelState::settle(const std::vector<Taken>& taken) {
  const std::lock_guard lock(mutex_);
  for (const Taken& part : taken) {
    const auto found = held_.find(part.job);
    if (found == held_.end()) continue;
    if (found->second.count == ResultsCount::until_consumed) hold(part.job, part.unpacked_bytes);
    let_go(part.job, part.arrived_bytes);
  }
}

void ChannelState::consumed(std::uint32_t job, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(job);
  if (found != held_.end() && found->second.count == ResultsCount::until_consumed) {
    let_go(job, bytes);
  }
}

void ChannelState::drop(std::uint32_t job) {
  const std::lock_guard lock(mutex_);
  std::erase_if(arrived_, [job](const Arrived& arrived) { return arrived.job == job; });
  const bool held = held_.erase(job) > 0;
  const auto found = jobs_.find(job);
  if (found != jobs_.end()) {
    found->second->dropped = true;
    jobs_.erase(found);
  } else if (!held) {
    return;
  }
  client_->drop_job(JobId{job});
}

void ChannelState::abandon() {
  const std::lock_guard lock(mutex_);
  for (const auto& [job, receiver] : std::exchange(jobs_, {})) {
    receiver->dropped = true;
    client_->drop_job(JobId{job});
  }
  for (const auto& [job, held] : std::exchange(held_, {})) client_->hold_results(JobId{job}, 0);
  arrived_.clear();
}

std::vector<ChannelState::Arrived> ChannelState::take(std::chrono::nanoseconds timeout,
                                                      std::size_t most) {
  std::unique_lock lock(mutex_);
  ++waiters_;
  client_->wait(lock, changed_, deadline_after(timeout),
                [this] { return !arrived_.empty() || failure_ || woken_; });
  --waiters_;
  woken_ = false;
  if (arrived_.empty() && failure_) {
    const Error error = *failure_;
    // A job that was opened since then, when the broker was back, is worth another wait.
    const bool more_to_come = std::any_of(jobs_.begin(), jobs_.end(),
                                          [](const auto& job) { return !job.second->failure; });
    failure_told_ = !more_to_come;
    if (more_to_come) failure_.reset();
    throw error;
  }
  const auto count = static_cast<std::ptrdiff_t>(std::min(most, arrived_.size()));
  const auto end = arrived_.begin() + count;
  std::vector<Arrived> taken(std::make_move_iterator(arrived_.begin()),
                             std::make_move_iterator(end));
  arrived_.erase(arrived_.begin(), end);
  if (!arrived_.empty() && waiters_ > 0) changed_.notify_one();
  return taken;
}

std::vector<ChannelOutcome> ChannelState::next(std::chrono::nanoseconds timeout, std::size_t most) {
  std::vector<ChannelOutcome> items;
  std::vector<Taken> taken;
  for (const Arrived& arrived : take(timeout, std::max<std::size_t>(most, 1))) {
    ChannelOutcome& item = items.emplace_back();
    item.job = arrived.job;
    item.sequence = arrived.sequence;
    const bool is_one_blob = muster::is_one_blob(arrived.outcome.body);
    OpenedOutcome opened = open_outcome(arrived.outcome, Consumed::with_its_bytes);
    item.blobs = std::move(opened.blobs);
    item.is_blob = is_one_blob;
    if (taken.empty() || taken.back().job != item.job) taken.push_back({item.job});
    taken.back().arrived_bytes += arrived.outcome.body.bytes.size();
    if (auto* bytes = std::get_if<Bytes>(&opened.result)) {
      item.result = std::move(*bytes);
      if (!is_one_blob) taken.back().unpacked_bytes += item.result.size();
    } else {
      item.error = std::get<Error>(std::move(opened.result));
    }
  }
  settle(taken);
  return items;
}

void ChannelState::wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_one();
  client_->stir();
}

std::string ChannelState::waiting_reason(std::uint32_t job) const {
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(job);
  return found == jobs_.end() ? "" : found->second->waiting_reason;
}

// --- For the client

void ChannelState::Receiver::deliver(TaskSequence first, std::vector<Outcome>&& outcomes) {
  const auto state = channel.lock();
  if (!state) return;
  const std::lock_guard lock(state->mutex_);
  if (dropped) return;
  std::uint64_t sequence = value(first);
  std::uint64_t bytes = 0;
  for (Outcome& outcome : outcomes) {
    bytes += outcome.body.bytes.size();
    state->arrived_.push_back({job, sequence++, std::move(outcome)});
  }
  state->hold(job, bytes);
  delivered += outcomes.size();
  if (state->waiters_ > 0) state->changed_.notify_one();
  if (closed && delivered == pushed) state->forget(job);
}

void ChannelState::Receiver::notice(const std::string& text) {
  const auto state = channel.lock();
  if (!state) return;
  const std::lock_guard lock(state->mutex_);
  waiting_reason = text;
}

void ChannelState::Receiver::fail(const Error& error) {
  const auto state = channel.lock();
  if (!state) return;
  const std::lock_guard lock(state->mutex_);
  if (dropped) return;
  failure.emplace(error);
  state->failure_.emplace(error);
  state->changed_.notify_all();
  if (closed) state->forget(job);
}

}  // namespace detail

Channel::Channel(std::shared_ptr<detail::ChannelState> state) : state_(std::move(state)) {}
Channel::Channel(Channel&&) noexcept = default;

Channel& Channel::operator=(Channel&& other) noexcept {
  if (state_ && state_ != other.state_) state_->abandon();
  state_ = std::move(other.state_);
  return *this;
}

std::uint32_t Channel::open(const FunctionName& function, const JobOptions& options,
                            ResultsCount count) {
  return state_->open(function, options, count);
}

Channel::~Channel() {
  if (state_) state_->abandon();
}

std::uint64_t Channel::push(std::uint32_t job, Bytes payload, const std::vector<Blob>& blobs) {
  return state_->push(job, std::move(payload), blobs);
}
void Channel::cancel(std::uint32_t job, std::optional<std::uint64_t> sequence) {
  state_->cancel(job, sequence);
}
void Channel::consumed(std::uint32_t job, std::uint64_t bytes) { state_->consumed(job, bytes); }
void Channel::close(std::uint32_t job) { state_->close(job); }
void Channel::drop(std::uint32_t job) { state_->drop(job); }
std::vector<ChannelOutcome> Channel::next(std::chrono::nanoseconds timeout, std::size_t most) {
  return state_->next(timeout, most);
}
void Channel::wake() { state_->wake(); }
std::string Channel::waiting_reason(std::uint32_t job) const { return state_->waiting_reason(job); }

}  // namespace muster
