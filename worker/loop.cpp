#include "worker/loop.hpp"

#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "common/printable.hpp"
#include "worker/system/clock.hpp"

namespace muster {
namespace {

constexpr int kMessagesPerTurn = 64;  // then executor and clock get their turn
constexpr std::chrono::milliseconds kGoodbyePatience{100};
constexpr Duration kWarnAfter = std::chrono::seconds(5);  // a broker may start after its workers
constexpr Duration kDialPause = std::chrono::seconds(1);  // after somebody refused our login
constexpr int kRefusedExitCode = 2;

// Results leave this machine: large ones are packed once, here, and unpacked by the producer.
void pack_results(message::WorkerOutcomes& outcomes) {
  for (OutcomeRun& run : outcomes.runs) {
    for (Outcome& outcome : run.outcomes) {
      const bool is_plain = outcome.body.unpacked_bytes == 0 && outcome.body.blobs == 0;
      if (outcome.status != OutcomeStatus::result || !is_plain) continue;
      outcome.body = pack_payload(std::move(outcome.body.bytes), Packing::when_smaller);
    }
  }
}

}  // namespace

WorkerLoop::WorkerLoop(LoopOptions options, Agent& agent, Executor& executor)
    : options_(std::move(options)),
      agent_(agent),
      executor_(executor),
      notifier_(options_.service),
      attention_(steady_now()) {
  if (options_.pause_load > 0) load_.emplace(options_.pause_load);
}

int WorkerLoop::run() {
  if (options_.endpoint.empty()) {
    watch();
  } else {
    if (!dealer_) connect();
    warn_at_ = attended_now() + kWarnAfter;
  }
  while (true) {
    const Time now = attention_.wakes(steady_now(), agent_.heartbeat_interval());
    check_signals(now);
    check_load(now);
    obey_control(now);
    receive(now);
    check_connection(now);
    agent_.tick(now);
    carry_out();
    notice_absence(now);
    tell_manager();
    if (agent_.link() == Agent::Link::refused) {
      spdlog::error("the broker refused this worker: {}", printable_line(agent_.refusal()));
      return kRefusedExitCode;
    }
    if (ended(now)) {
      say_goodbye();
      return 0;
    }
    const bool is_lost = agent_.link() == Agent::Link::silent || send_failed_;
    if (dealer_ && is_lost && !replaced_) {
      spdlog::warn("the broker does not answer; connecting again to {}", options_.endpoint);
      connect();
      continue;
    }
    wait();
  }
}

void WorkerLoop::connect() {
  send_failed_ = false;
  replaced_ = true;
  dial_at_ = kNever;
  dealer_.reset();
  dealer_ = std::make_unique<Dealer>(*context_, options_.endpoint, options_.login);
  tell_blobs();
  watch();
}

// The bulk connection follows this one.
void WorkerLoop::tell_blobs() {
  if (options_.blobs == nullptr) return;
  options_.blobs->connect(dealer_ ? BulkBroker{options_.endpoint, options_.login, proof_}
                                  : BulkBroker{});
}

void WorkerLoop::connect_to(const std::string& endpoint, const Login& login,
                            const std::string& proof) {
  check_endpoint(endpoint, login);
  options_.endpoint = endpoint;
  options_.login = login;
  refusal_told_ = false;
  warn_at_ = attended_now() + kWarnAfter;
  proof_ = proof;
  agent_.set_proof(proof);
  agent_.disconnected(attended_now());
  connect();
}

void WorkerLoop::disconnect() {
  options_.endpoint.clear();
  options_.login = {};
  warn_at_ = kNever;
  hang_up(kNever);
}

void WorkerLoop::hang_up(Time dial_at) {
  dealer_.reset();
  dial_at_ = dial_at;
  send_failed_ = false;
  replaced_ = false;
  agent_.disconnected(attended_now());
  tell_blobs();
  watch();
}

void WorkerLoop::watch() {
  poller_.clear();
  poller_.watch(options_.signals);
  if (options_.lifeline >= 0) poller_.watch(options_.lifeline);
  poller_.watch(executor_.wake_descriptor());
  if (options_.control != nullptr) poller_.watch(options_.control->descriptor());
  const int blobs = options_.blobs == nullptr ? -1 : options_.blobs->descriptor();
  if (blobs >= 0) poller_.watch(blobs);
  if (!dealer_) return;
  poller_.watch_socket(dealer_->native_socket());
  poller_.watch_socket(dealer_->native_monitor());
}

// The process at the endpoint may refuse us, or not be our broker: try again in a while.
void WorkerLoop::check_connection(Time now) {
  if (!dealer_ && now >= dial_at_) connect();
  if (!dealer_) return;
  const bool is_stranger = agent_.link() == Agent::Link::stranger;
  if (!is_stranger && !dealer_->take_refused()) return;
  if (!std::exchange(refusal_told_, true)) {
    const char* why = is_stranger ? "its answer lacks the proof that only our broker has."
                                  : "the login is refused, or nobody asks for one there; is this "
                                    "worker's public key among the broker's --authorized-workers?";
    spdlog::warn(
        "the process listening at {} is not a broker that this worker may serve: {} Trying again.",
        options_.endpoint, why);
  }
  hang_up(now + kDialPause);
}

void WorkerLoop::obey_control(Time now) {
  if (options_.control == nullptr) return;
  for (Control::Event& event : options_.control->poll(now)) {
    if (auto* attached = std::get_if<Control::Attached>(&event)) {
      connect_to(attached->endpoint, attached->login, attached->proof);
    } else if (std::holds_alternative<Control::Lost>(event)) {
      spdlog::warn("the tunnel is gone; running tasks go on");
      disconnect();
    } else if (const auto* end = std::get_if<Control::End>(&event)) {
      drain(end->patience, now);
    } else {
      spdlog::warn("no broker came back: this worker ends");
      at_once_ = true;
    }
  }
}

void WorkerLoop::drain(Duration patience, Time now) {
  drain_deadline_ = std::min(drain_deadline_, now + patience);
  agent_.drain(now);
  spdlog::info("draining: running tasks get {} s",
               std::chrono::duration_cast<std::chrono::seconds>(patience).count());
}

void WorkerLoop::notice_connected(Time now) {
  if (!dealer_->take_connected()) return;
  spdlog::info("connected to {}", options_.endpoint);
  replaced_ = false;
  // The broker says nothing before our HELLO: what is here is of the connection before.
  while (dealer_->receive()) {
  }
  agent_.connected(now);
}

void WorkerLoop::receive(Time now) {
  if (!dealer_) return;
  notice_connected(now);
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    const auto frames = dealer_->receive();
    if (!frames) return;
    // It may be the first word of a new connection, with somebody else at its other end.
    if (options_.login.index() != 0) notice_connected(now);
    auto decoded = decode(*frames);
    auto* message = std::get_if<Message>(&decoded);
    auto* answer = message == nullptr ? nullptr : std::get_if<message::StoreAnswer>(message);
    if (answer != nullptr && options_.stores != nullptr && agent_.link() == Agent::Link::up) {
      options_.stores->answer(std::move(*answer));
    } else if (message != nullptr) {
      obey(std::move(*message), now);
    } else {
      // What it said is lost: the broker says it again on a new connection.
      spdlog::warn("a message of the broker at {} cannot be read ({}); connecting again",
                   options_.endpoint, printable_line(std::get<DecodeError>(decoded).reason));
      return hang_up(now + kDialPause);
    }
  }
  next_poll_ = Time{0};  // more messages wait; do not block
}

void WorkerLoop::obey(Message&& message, Time now) {
  const auto* welcome = std::get_if<message::Welcome>(&message);
  const bool may_settle = welcome != nullptr && options_.blobs != nullptr;
  const message::Welcome said = may_settle ? *welcome : message::Welcome{};
  agent_.receive(std::move(message), now);
  // Before any task of this broker starts, and not for a stranger.
  if (!may_settle || agent_.link() != Agent::Link::up) return;
  agent_.set_sharing(options_.blobs->settle(said), now);
  watch();
}

// Until nobody has anything to say: a started task may end before the loop looks away.
void WorkerLoop::carry_out() {
  while (true) {
    const Time now = attended_now();
    Executor::Results results = executor_.poll(steady_now());
    next_poll_ = std::min(next_poll_, results.next_poll);
    carry_store_questions(now);
    agent_.set_stuck(results.stuck_slots, now);
    agent_.said(std::move(results.outputs), now);
    agent_.finished(std::move(results.finished), now);
    agent_.handed_back(results.handed_back, now);
    if (options_.blobs != nullptr) agent_.report(options_.blobs->poll(), now);
    Agent::Actions actions = agent_.take_actions();
    if (actions.empty()) return;
    carry_blobs(actions.blobs, now);
    if (!actions.forgets.empty()) executor_.forget(actions.forgets);
    if (!actions.starts.empty()) executor_.start(std::move(actions.starts));
    if (!actions.stops.empty()) executor_.stop(actions.stops);
    if (!actions.recalls.empty()) executor_.recall(actions.recalls);
    for (Message& message : actions.messages) send(message);
  }
}

void WorkerLoop::carry_blobs(const std::vector<BlobRequest>& requests, Time now) {
  if (options_.blobs != nullptr) {
    options_.blobs->obey(requests);
    return;
  }
  for (const BlobRequest& request : requests) {
    if (request.kind != BlobRequest::Kind::fetch) continue;
    agent_.blob_gone(request.name.id, "this worker has no folder for blobs: see its log", now);
  }
}

void WorkerLoop::carry_store_questions(Time now) {
  if (options_.stores == nullptr) return;
  const bool is_up = dealer_ != nullptr && agent_.link() == Agent::Link::up;
  for (Message& message : options_.stores->take_messages(is_up, now)) send(message);
  next_poll_ = std::min(next_poll_, attention_.clock(options_.stores->next_deadline()));
}

void WorkerLoop::send(Message& message) {
  if (!dealer_) return;  // said again after the next WELCOME, if it matters
  const Packing packing = agent_.pack() ? Packing::when_smaller : Packing::never;
  auto* outcomes = std::get_if<message::WorkerOutcomes>(&message);
  if (outcomes != nullptr && agent_.pack()) pack_results(*outcomes);
  if (dealer_->send(encode(message, packing)) != SendResult::sent) send_failed_ = true;
}

void WorkerLoop::check_signals(Time now) {
  signalfd_siginfo signal{};
  while (::read(options_.signals, &signal, sizeof signal) == sizeof signal) {
    if (drain_deadline_ != kNever) {
      at_once_ = true;
      continue;
    }
    drain_deadline_ = now + options_.drain_timeout;
    agent_.drain(now);
    spdlog::info("draining: running tasks get {} s, another signal ends them at once",
                 std::chrono::duration_cast<std::chrono::seconds>(options_.drain_timeout).count());
  }
  if (options_.lifeline >= 0 && poller_.readable(1)) {
    char byte = 0;
    if (::read(options_.lifeline, &byte, 1) == 0) at_once_ = true;
  }
}

void WorkerLoop::check_load(Time now) {
  if (!load_) return;
  const std::string before = load_->reason();
  if (!load_->look(steady_now()) || load_->reason() == before) return;
  agent_.set_paused(load_->reason(), now);
  if (load_->reason().empty()) {
    spdlog::info("goes on: the others are quiet again");
  } else {
    spdlog::info("pauses: {}", load_->reason());
  }
}

bool WorkerLoop::ended(Time now) {
  if (at_once_) return true;
  return drain_deadline_ != kNever && (agent_.idle() || now >= drain_deadline_);
}

void WorkerLoop::say_goodbye() {
  if (!dealer_ || agent_.link() != Agent::Link::up) return;
  Message goodbye = message::Goodbye{};
  send(goodbye);
  dealer_->set_linger(kGoodbyePatience);
  poller_.clear();
  dealer_.reset();
  context_.reset();  // waits until it is written
}

void WorkerLoop::notice_absence(Time now) {
  if (agent_.link() == Agent::Link::up) {
    warn_at_ = kNever;
    refusal_told_ = false;
  }
  if (now < warn_at_) return;
  warn_at_ = kNever;
  if (std::holds_alternative<CurveLogin>(options_.login)) {
    spdlog::warn(
        "no broker answers at {}; does muster-broker listen there, and is --broker-key its public "
        "key? This worker keeps trying",
        options_.endpoint);
    return;
  }
  spdlog::warn(
      "no broker answers at {}; is muster-broker running there? Start it with `muster-broker "
      "--listen {}`; this worker keeps trying",
      options_.endpoint, options_.endpoint);
}

// Ready means set up: a broker may start after its workers.
void WorkerLoop::tell_manager() {
  const Time now = steady_now();
  if (drain_deadline_ != kNever) {
    notifier_.turn(now, ServiceState::stopping, "draining: running tasks end, others went back");
  } else {
    const bool is_connected = agent_.link() == Agent::Link::up;
    notifier_.turn(now, ServiceState::ready,
                   is_connected ? "connected to its broker" : "not connected: no broker answers");
  }
}

Time WorkerLoop::attended_now() const { return attention_.at(steady_now()); }

void WorkerLoop::wait() {
  const Time look = load_ ? load_->next_look() : kNever;
  const Time control = options_.control == nullptr ? kNever : options_.control->next_deadline();
  const Time dial = dealer_ ? kNever : dial_at_;
  const Time attended =
      std::min({agent_.next_deadline(), drain_deadline_, warn_at_, control, dial});
  const Time deadline =
      std::min({attention_.clock(attended), next_poll_, look, notifier_.next_deadline()});
  attention_.sleeps(attended);
  next_poll_ = kNever;
  poller_.wait(deadline == kNever ? kNever : std::max(deadline - steady_now(), Duration::zero()));
}

}  // namespace muster
