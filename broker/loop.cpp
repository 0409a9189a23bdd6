#include "broker/loop.hpp"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <optional>
#include <utility>
#include <variant>

#include "broker/door/log_limit.hpp"
#include "common/net/connection_gate.hpp"
#include "common/printable.hpp"

namespace muster {
namespace {

// Messages taken in one turn: enough to form batches, few enough to keep heartbeats on time.
constexpr int kMessagesPerTurn = 256;

// A peer can make a counter grow at will; the log tells a larger one when it has doubled, or so
// often.
constexpr std::uint64_t kCountsToldAtOnce = 64;
constexpr Duration kTellAgain = std::chrono::minutes(1);

Time clock_now() { return std::chrono::steady_clock::now().time_since_epoch(); }

SchedulerOptions with_blobs(SchedulerOptions options, BlobStore& blobs) {
  options.blobs = &blobs;
  options.blob_folders = blobs.folders();
  options.blob_token = blobs.token();
  options.credit_memory_bytes = blobs.memory_limit_bytes();
  options.credit_blob_bytes = blobs.memory_limit_bytes() + blobs.disk_limit_bytes();
  return options;
}

bool is_greeting(const Message& message) {
  return std::holds_alternative<message::HelloWorker>(message) ||
         std::holds_alternative<message::HelloProducer>(message) ||
         std::holds_alternative<message::HelloBulk>(message);
}

}  // namespace

BrokerLoop::BrokerLoop(const BrokerOptions& options, int signals, Endpoints& endpoints,
                       const Authenticator& authenticator, NodesControl& nodes, BlobStore& blobs,
                       StoreServer& stores)
    : signals_(signals),
      lifeline_(options.lifeline),
      endpoints_(endpoints),
      router_(endpoints.router()),
      authenticator_(authenticator),
      local_users_(options.worker_users),
      nodes_(nodes),
      blobs_(blobs),
      stores_(stores),
      notifier_(options.service),
      heartbeat_interval_(options.scheduler.heartbeat_interval),
      attention_(clock_now()),
      scheduler_(with_blobs(options.scheduler, blobs), now()),
      outbox_(router_),
      blob_server_(blobs, scheduler_, router_) {
  router_.watch(poller_);
  poller_.watch(signals_);
  if (lifeline_ >= 0) poller_.watch(lifeline_);
  poller_.watch(stores_.descriptor());
  poller_.watch(nodes_.descriptor());
}

void BrokerLoop::run() {
  while (!nodes_.wants_end()) {
    sleep();
    if (told_to_end()) break;
    take_input();
    nodes_.step(scheduler_, now());
    serve_stores();
    if (now() >= scheduler_.next_deadline()) tick();
    blobs_.tick(now());
    blob_server_.turn(now());
    send_output();
    notifier_.turn(clock_now(), ServiceState::ready, "serving");
  }
  notifier_.turn(clock_now(), ServiceState::stopping, "ending");
  spdlog::info("ending");
  nodes_.finish();
}

Time BrokerLoop::now() const { return attention_.at(clock_now()); }

void BrokerLoop::sleep() {
  const Time deadline = std::min({scheduler_.next_deadline(), nodes_.next_deadline(),
                                  blobs_.next_deadline(), blob_server_.next_deadline()});
  attention_.sleeps(deadline);
  poller_.wait(std::min(attention_.clock(deadline), notifier_.next_deadline()) - clock_now());
  attention_.wakes(clock_now(), heartbeat_interval_);
}

bool BrokerLoop::told_to_end() {
  if (poller_.readable(0)) {
    signalfd_siginfo signal{};
    while (read(signals_, &signal, sizeof signal) == sizeof signal) {
      if (signal.ssi_signo != SIGHUP) return true;
      reload_authorized();
    }
  }
  if (lifeline_ < 0 || !poller_.readable(1)) return false;
  char ignored = 0;
  return read(lifeline_, &ignored, 1) <= 0;
}

void BrokerLoop::take_input() {
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    auto received = router_.receive();
    if (!received) return;
    hear(std::move(*received));
  }
}

void BrokerLoop::hear(Received&& received) {
  if (scheduler_.ignores(received.peer, now())) return;  // what it says is not even unpacked
  auto decoded = decode(received.frames);
  received.frames.clear();
  if (const auto* error = std::get_if<DecodeError>(&decoded)) {
    refuse_malformed(received.peer, *error);
    return;
  }
  Message message = std::get<Message>(std::move(decoded));
  if (is_for_outbox(received.peer, message)) return;
  if (is_greeting(message)) return hear_greeting(received, std::move(message));
  if (blob_server_.hear(received.peer, message, now())) return;
  scheduler_.receive(received.peer, std::move(message), now());
}

void BrokerLoop::hear_greeting(const Received& received, Message&& message) {
  std::optional<RemoteUser> user;
  if (received.remote) {
    user = {received.user, authenticator_.proof(received.user),
            authenticator_.admits(received.user)};
  }
  const RemoteUser* remote = user ? &*user : nullptr;
  LocalUser local;
  if (!received.remote) local = local_users_.user(received.local_user);
  if (std::holds_alternative<message::HelloWorker>(message)) {
    local.may_work = local_users_.may_work(local);
  }
  if (blob_server_.hear(received.peer, message, now(), remote, local)) return;
  scheduler_.receive(received.peer, std::move(message), now(), remote, local);
}

void BrokerLoop::refuse_malformed(PeerId peer, const DecodeError& error) {
  if (is_worth_a_line(++refusals_)) {
    spdlog::warn("peer {:x} refused ({} so far): {}", static_cast<std::uint64_t>(peer), refusals_,
                 printable_line(error.reason));
  }
  blob_server_.forget(peer, now());
  scheduler_.malformed(peer, error.code, error.reason, now());
}

// What concerns how much its peer has read.
bool BrokerLoop::is_for_outbox(PeerId peer, const Message& message) {
  if (std::holds_alternative<message::StatusRequest>(message)) {
    return scheduler_.knows(peer) && !outbox_.may_have_status(peer);
  }
  const auto* beat = std::get_if<message::Heartbeat>(&message);
  if (beat == nullptr || !outbox_.heard(peer, *beat, now())) return false;
  // It lives, and says nothing about the round trip: a token of later.
  const auto later = static_cast<std::uint64_t>(now().count()) + 1;
  scheduler_.receive(peer, message::Heartbeat{later, false}, now());
  return true;
}

void BrokerLoop::answer_due() {
  for (const PeerId peer : outbox_.take_due_requests()) {
    scheduler_.receive(peer, message::StatusRequest{}, now());
  }
}

void BrokerLoop::send_output() {
  answer_due();
  for (Outgoing& outgoing : scheduler_.take_outgoing(now())) {
    // What tasks said may be left out: the next other message tells whether the peer reads.
    const bool may_be_lost = std::holds_alternative<message::Output>(outgoing.message);
    const SendResult result = outbox_.send(outgoing.peer, std::move(outgoing.message), now());
    if (result == SendResult::sent || (result == SendResult::full && may_be_lost)) continue;
    give_up(outgoing.peer, result);
  }
  for (const auto& [peer, result] : outbox_.take_lost(now())) give_up(peer, result);
}

void BrokerLoop::give_up(PeerId peer, SendResult why) {
  if (why == SendResult::gone) {
    scheduler_.disconnected(peer, now());
  } else if (!scheduler_.not_reading(peer, now())) {
    return;
  }
  if (is_worth_a_line(++departures_)) {
    spdlog::info("peer {:x} {} ({} so far)", static_cast<std::uint64_t>(peer),
                 why == SendResult::gone ? "is gone" : "does not read and is told nothing more",
                 departures_);
  }
}

void BrokerLoop::serve_stores() {
  for (Scheduler::StoreEvent& event : scheduler_.take_store_events()) {
    if (event.request) {
      stores_.ask(event.origin, std::move(*event.request));
    } else {
      stores_.gone(event.origin);
    }
  }
  for (AddressedReply& answer : stores_.take_answers()) {
    scheduler_.answer(answer.origin, std::move(answer.answer));
  }
}

// Also tells people what the counters say happened since the last look.
void BrokerLoop::tick() {
  scheduler_.set_counter("logins_refused", authenticator_.refused());
  for (const auto& [name, count] : stores_.counters()) scheduler_.set_counter(name, count);
  count_refused_connections();
  scheduler_.set_gauge("bytes_unread", outbox_.unread_bytes());
  scheduler_.tick(now());
  for (const auto& [name, count] : scheduler_.counters()) {
    if (name.starts_with("stored_")) continue;  // they change all the time
    Told& told = counters_told_[name];
    const bool doubled = std::bit_width(count) != std::bit_width(told.count);
    const bool is_due = count <= kCountsToldAtOnce || doubled || now() - told.at > kTellAgain;
    if (count == told.count || !is_due) continue;
    spdlog::info("{} +{} (now {})", name, count - told.count, count);
    told = {count, now()};
  }
}

void BrokerLoop::count_refused_connections() {
  const gate::Refused refused = gate::refused();
  scheduler_.set_counter("connections_beyond_descriptors", refused.full);
  scheduler_.set_counter("connections_foreign", refused.foreign);
  scheduler_.set_counter("connections_claiming_ids", refused.claiming);
  scheduler_.set_counter("connections_endless", refused.endless);
}

void BrokerLoop::reload_authorized() {
  try {
    for (const std::string& user : endpoints_.reload_authorized()) {
      spdlog::warn("worker {} is no longer authorized", printable_line(user));
      scheduler_.revoke(user);
    }
  } catch (const TransportError& error) {
    spdlog::error("authorized workers stay as they were: {}", error.what());
  }
}

}  // namespace muster
