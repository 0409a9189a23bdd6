// The client's work, a turn at a time: commands in, messages out, messages in, outcomes out.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "common/protocol/codec.hpp"
#include "producer/client/client.hpp"
#include "producer/client/store_seal.hpp"

namespace muster::detail {
namespace {

constexpr std::size_t kMessagesPerTurn = 64;        // received before commands are looked at again
constexpr std::chrono::milliseconds kRetryFull{2};  // a full socket cannot be waited for
constexpr std::chrono::milliseconds kGoodbye{500};  // for GOODBYE to leave this process
constexpr std::chrono::seconds kDialPause{1};       // after somebody who is no broker

Time clock_now() { return std::chrono::steady_clock::now().time_since_epoch(); }

void tell_person(const std::string& line) {
  const std::string text = line + "\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

void Client::run() {
  std::optional<Error> error;
  try {
    loop();
  } catch (const std::exception& failure) {
    error.emplace(ErrorCode::disconnected, "internal",
                  fmt::format("the connection's thread failed: {}", failure.what()));
  }
  output_.close();
  keeper_->close();
  const std::lock_guard turn(turn_mutex_);
  {
    const std::lock_guard lock(mutex_);
    dead_ = true;
    commands_.swap(inbox_);
  }
  for (Command& command : commands_) {  // so that what was handed in last fails like the rest
    if (auto* open = std::get_if<Open>(&command)) jobs_[open->job].sink = std::move(open->sink);
    if (auto* ask = std::get_if<AskStatus>(&command)) {
      status_waiters_.push_back(std::move(ask->promise));
    }
    if (auto* ask = std::get_if<AskNodes>(&command)) {
      node_waiters_.emplace(0, std::move(ask->promise));
    }
    if (auto* ask = std::get_if<AskStore>(&command)) {
      store_waiters_.emplace(UINT64_MAX - store_waiters_.size(), std::move(ask->promise));
    }
  }
  commands_.clear();
  fail_all(error.value_or(
      Error(ErrorCode::task_cancelled, "closed", "the Producer was destroyed before the outcome")));
}

void Client::loop() {
  while (turn(nullptr)) doze();
  const std::lock_guard turn(turn_mutex_);
  session_.close();
  backlog_.clear();
  send();
  dealer_->set_linger(kGoodbye);
  dealer_.reset();
}

// What came first: who waits for it goes on. When `done()` then, the rest is left to the next turn.
// False when the client is to stop.
bool Client::turn(const Done& done) {
  const std::lock_guard turn(turn_mutex_);
  if (!take_commands()) return false;
  const Time now = attention_.wakes(clock_now(), session_.heartbeat_interval());
  receive(now);
  dispatch();
  if (done && done()) {
    finish_turn(Time{0});
    return true;
  }
  session_.tick(now);
  follow_link(now);
  send();
  dispatch();
  report_link();
  finish_turn(next_turn(attention_.at(clock_now())));
  return true;
}

// When the next turn is due if nothing happens before.
Time Client::next_turn(Time now) {
  if (dealer_->has_input() || needs_connection(now)) return Time{0};
  if (!backlog_.empty()) return now + kRetryFull;
  const Duration left = is_awaited() ? absence_.next(silence(now)) : kNever;
  return std::min({session_.next_deadline(), dial_at_, left == kNever ? kNever : now + left});
}

// The session has given the connection up, or what listens was not a broker.
bool Client::needs_connection(Time now) const {
  return (session_.link() == Session::Link::silent && !replaced_) || now >= dial_at_;
}

// Whether anybody waits for the broker.
bool Client::is_awaited() {
  if (!jobs_.empty() || !status_waiters_.empty() || !node_waiters_.empty() ||
      !store_waiters_.empty() || keeper_->awaited()) {
    return true;
  }
  const std::lock_guard lock(mutex_);
  return slot_waiters_ > 0;
}

Absence::Silence Client::silence(Time now) {
  return {now - session_.silent_since().value_or(now), session_.longest_silence(),
          session_.heartbeat_interval(), session_.link() == Session::Link::up};
}

// Tells the others what they need to know of the session, and wakes one that it concerns.
void Client::finish_turn(Time deadline) {
  attention_.sleeps(deadline);
  const Time due = attention_.clock(deadline);
  std::unique_lock lock(mutex_);
  tasks_in_hand_ = session_.tasks_in_hand();
  can_send_ = session_.link() == Session::Link::up && backlog_.empty();
  const bool concerns = std::exchange(stirred_, false) || due < turn_due_;
  turn_due_ = std::min(due, keeper_->orders_due());
  if (concerns) wake(lock);
}

// False when the client is to stop.
bool Client::take_commands() {
  {
    const std::lock_guard lock(mutex_);
    if (fault_) std::rethrow_exception(fault_);
    if (stopping_) return false;
    commands_.swap(inbox_);
  }
  take_blob_orders();  // of these commands among others
  for (Command& command : commands_) {
    std::visit([this](auto& alternative) { apply(alternative); }, command);
  }
  commands_.clear();
  return true;
}

void Client::take_blob_orders() {
  for (BlobKeeper::Order& order : keeper_->take_orders(clock_now())) {
    if (auto* source = std::get_if<BlobSource>(&order)) {
      session_.put_blob(std::move(*source));
    } else {
      const BlobSource& released = std::get<BlobKeeper::Release>(order).source;
      if (!session_.release_blob(released.name.id)) keeper_->discard(released);
    }
  }
}

void Client::apply(Open& command) {
  command.spec.inline_results = keeper_->is_apart();
  const JobId job = session_.open_job(std::move(command.spec));
  jobs_[job].sink = std::move(command.sink);  // both sides count jobs alike
}

void Client::apply(Submit& command) {
  const auto found = jobs_.find(command.job);
  if (found == jobs_.end() || found->second.ended) return;  // it failed meanwhile
  found->second.missing += command.payloads.size();
  session_.submit(command.job, std::move(command.payloads));
}

void Client::apply(Cancel& command) {
  if (command.sequence) {
    session_.cancel(command.job, *command.sequence);
  } else {
    session_.cancel(command.job);
  }
}

void Client::apply(End& command) {
  session_.end_job(command.job);
  const auto found = jobs_.find(command.job);
  if (found == jobs_.end()) return;
  found->second.ended = true;
  if (found->second.missing == 0) jobs_.erase(found);
}

void Client::apply(Drop& command) {
  session_.cancel(command.job);
  session_.end_job(command.job);
  session_.hold_results(command.job, 0);
  jobs_.erase(command.job);
}

void Client::apply(Hold& command) { session_.hold_results(command.job, command.bytes); }

void Client::apply(AskStatus& command) {
  status_waiters_.push_back(std::move(command.promise));
  session_.request_status();
}

void Client::apply(AskNodes& command) {
  const std::uint64_t number = session_.request_nodes(std::move(command.command));
  node_waiters_.emplace(number, std::move(command.promise));
}

void Client::apply(AskStore& command) {
  name_store(command.question.store);
  const bool is_answered = command.question.operation != StoreOperation::leave;
  const std::uint64_t number = session_.ask_store(command.claimant, std::move(command.question));
  if (is_answered) store_waiters_.emplace(number, std::move(command.promise));
}

void Client::apply(NameStore& command) { name_store(command.store); }

void Client::name_store(const std::string& store) {
  if (store.empty() || session_.names_store(store)) return;
  if (seal_.empty()) seal_ = store_seal();
  session_.name_store(store, seal_);
}

// Opens a new connection after a silence; tells of a long one, or ends every wait.
void Client::follow_link(Time now) {
  if (needs_connection(now)) reconnect();
  if (session_.link() == Session::Link::refused) {
    if (refused_) fail_all(*refused_);
    return;
  }
  const Absence::Silence silent = silence(now);
  if (!absence_.concerns(silent)) return;
  if (const auto line = absence_.look(silent, is_awaited(), std::chrono::system_clock::now())) {
    tell_person(*line);
  }
  if (const auto error = absence_.verdict(silent)) fail_all(*error);
}

void Client::reconnect() {
  replaced_ = true;
  dial_at_ = kNever;
  dealer_.reset();
  backlog_.clear();
  dealer_ = std::make_unique<Dealer>(context_, options_.endpoint);
  const std::lock_guard lock(mutex_);
  dealer_descriptor_ = dealer_->descriptor();
  monitor_descriptor_ = dealer_->monitor_descriptor();
  stirred_ = true;
}

void Client::send() {
  const auto put = [this](const Frames& frames) {
    return dealer_->send(frames) == SendResult::sent;
  };
  while (!backlog_.empty() && put(backlog_.front())) backlog_.pop_front();
  if (!backlog_.empty()) return;  // the session keeps the rest
  for (const Message& message : session_.take_messages()) {
    Frames frames = encode(message, Packing::never);  // a local socket: copying beats lz4
    if (!backlog_.empty() || !put(frames)) backlog_.push_back(std::move(frames));
  }
}

void Client::receive(Time now) {
  while (heard_.size() < kMessagesPerTurn) {
    auto frames = dealer_->receive();
    if (!frames) break;
    heard_.push_back(*std::move(frames));
  }
  if (dealer_->take_connected()) {
    // The broker says nothing before our HELLO: what is here is of the connection before.
    while (dealer_->receive()) {
    }
    backlog_.clear();
    replaced_ = false;
    session_.connected(now);
  } else {
    for (const Frames& frames : heard_) hear(frames, now);
  }
  heard_.clear();
  if (dealer_->take_refused()) dial_at_ = now + kDialPause;
}

void Client::hear(const Frames& frames, Time now) {
  auto decoded = decode(frames);
  if (auto* message = std::get_if<Message>(&decoded)) {
    session_.receive(std::move(*message), now);
  } else {
    session_.receive_unreadable(std::get<DecodeError>(decoded).reason, now);
  }
}

void Client::tell_unreadable(const Session::Unreadable& unreadable) {
  if (unreadable.is_last) {
    refuse(
        Error(ErrorCode::refused, "version",
              fmt::format("the broker at {} sends messages that this program cannot read ({}): use "
                          "the same version of Muster on both sides, here it is {}",
                          options_.endpoint, unreadable.reason, MUSTER_VERSION)));
  } else {
    tell_person(
        fmt::format("muster: a message of the broker at {} cannot be read ({}); connecting "
                    "again, so that the broker sends it again",
                    options_.endpoint, unreadable.reason));
  }
}

// Lasting: every wait ends with it, now and later.
void Client::refuse(Error why) {
  const std::lock_guard lock(mutex_);
  refused_ = std::move(why);
  link_changed_.notify_all();
}

void Client::report_link() {
  if (session_.link() != Session::Link::up) return;
  pack_.store(session_.pack(), std::memory_order_relaxed);
  const Duration silent = attention_.at(clock_now()) - *session_.silent_since();
  const bool heard = !options_.broker_timeout || silent < *options_.broker_timeout;
  const std::lock_guard lock(mutex_);
  const bool was_unheard = heard && std::exchange(unheard_, false);
  const bool was_welcomed = std::exchange(welcomed_, true);
  if (was_unheard || !was_welcomed) link_changed_.notify_all();
}

void Client::report_pool(const message::Pool& pool) {
  const std::lock_guard lock(mutex_);
  total_slots_.store(pool.total_slots, std::memory_order_relaxed);
  pool_known_ = true;
  link_changed_.notify_all();
}

void Client::dispatch() {
  Session::Events events = session_.take_events();
  dispatch_blobs(events);
  if (!events.delivered.empty()) stirred_ = true;
  for (Session::Delivered& delivered : events.delivered) dispatch(std::move(delivered));
  for (const message::Notice& notice : events.notices) {
    const auto found = jobs_.find(notice.job);
    if (found != jobs_.end()) found->second.sink->notice(notice.text);
  }
  for (message::Output& output : events.outputs) output_.push(std::move(output));
  if (events.pool) report_pool(*events.pool);
  if (events.status) {
    for (auto& waiter : std::exchange(status_waiters_, {})) waiter.set_value(*events.status);
  }
  for (auto& [number, answer] : events.nodes_answered) {
    const auto found = node_waiters_.find(number);
    if (found == node_waiters_.end()) continue;
    found->second.set_value(std::move(answer));
    node_waiters_.erase(found);
  }
  for (message::StoreAnswer& answer : events.store_answers) {
    const auto found = store_waiters_.find(answer.token);
    if (found == store_waiters_.end()) continue;
    found->second.set_value(std::move(answer.reply));
    store_waiters_.erase(found);
  }
  if (events.refused) refuse(refusal(*events.refused));
  if (events.unreadable) tell_unreadable(*events.unreadable);
}

void Client::dispatch_blobs(const Session::Events& events) {
  if (events.blob_terms) keeper_->take_terms(*events.blob_terms);
  for (const BlobAnswer& answer : events.blob_answers) {
    if (auto source = keeper_->answered(answer)) session_.put_blob(*std::move(source));
  }
}

void Client::dispatch(Session::Delivered&& delivered) {
  for (Outcome& outcome : delivered.outcomes) {
    keeper_->hold(outcome.body);
    keeper_->explain(outcome);
  }
  const auto found = jobs_.find(delivered.job);
  if (found == jobs_.end()) return;  // nobody waits any more
  OpenJob& job = found->second;
  job.missing -= delivered.outcomes.size();
  job.sink->deliver(delivered.first, std::move(delivered.outcomes));
  if (job.ended && job.missing == 0) jobs_.erase(found);
}

// Ends every wait; outcomes that arrive later are dropped.
void Client::fail_all(const Error& error) {
  stirred_ = true;
  {
    const std::lock_guard lock(mutex_);
    ++failures_;
    unheard_ = true;
    failure_.emplace(error);
    link_changed_.notify_all();
  }
  keeper_->fail(error);
  for (auto& [id, job] : std::exchange(jobs_, {})) {
    session_.cancel(id);
    session_.end_job(id);
    job.sink->fail(error);
  }
  for (auto& waiter : std::exchange(status_waiters_, {})) {
    waiter.set_exception(std::make_exception_ptr(error));
  }
  session_.forget_store_questions();
  for (auto& [number, waiter] : std::exchange(store_waiters_, {})) {
    waiter.set_exception(std::make_exception_ptr(error));
  }
  session_.forget_unanswered_nodes();
  for (auto& [number, waiter] : std::exchange(node_waiters_, {})) {
    waiter.set_exception(std::make_exception_ptr(error));
  }
}

}  // namespace muster::detail
