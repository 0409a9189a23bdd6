#include "worker/agent/agent.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "common/check.hpp"
#include "common/net/secret.hpp"

namespace muster {
namespace {

// What a broken or hostile WELCOME may ask for at most and at least.
constexpr Duration kShortestHeartbeat = std::chrono::milliseconds(20);
constexpr Duration kLongestHeartbeat = std::chrono::hours(1);
constexpr std::uint32_t kMostMisses = 1000;

template <typename Kind, typename... Kinds>
constexpr bool kOneOf = (std::is_same_v<Kind, Kinds> || ...);

// The messages that nobody sends to a worker.
template <typename Kind>
constexpr bool kNotForWorkers =
    kOneOf<Kind, message::HelloProducer, message::HelloWorker, message::Goodbye, message::Job,
           message::Submit, message::EndJob, message::Cancel, message::Outcomes,
           message::AcknowledgeOutcomes, message::Credit, message::Notice, message::WorkerOutcomes,
           message::Returned, message::WorkerState, message::StatusRequest, message::Status,
           message::Output, message::Pool, message::WorkerOutput, message::NodesUp,
           message::NodesDown, message::NodesAnswer, message::HelloBulk, message::BlobPut,
           message::BlobAnswers, message::BlobRelease, message::BlobWant, message::BlobChunk,
           message::BlobGone, message::WorkerBlobs, message::StoreRequest, message::StoreAnswer,
           message::ResultsHeld>;

// Those about the connection itself; the others are about leases.
template <typename Kind>
constexpr bool kOfLink =
    kOneOf<Kind, message::Welcome, message::Refuse, message::Unknown, message::Heartbeat>;

}  // namespace

Agent::Agent(AgentOptions options)
    : options_(std::move(options)),
      heartbeat_interval_(limits::kHeartbeatInterval),
      heartbeat_misses_(limits::kHeartbeatMisses),
      books_(options_) {
  CHECK(options_.slots >= 1 && options_.slots <= limits::kMaxSlots);
  CHECK(options_.functions.size() <= limits::kMaxFunctions);
  CHECK(options_.labels.size() <= limits::kMaxLabels);
}

void Agent::set_now(Time now) {
  now_ = now;
  books_.set_now(now);
}

// --- Link ---------------------------------------------------------------------------------------

void Agent::connected(Time now) {
  set_now(now);
  if (link_ == Link::refused) return;
  last_heard_ = now;
  say_hello();
}

void Agent::say_hello() {
  link_ = Link::waiting;
  greeted_ = true;
  outbox_.clear();
  message::HelloWorker hello;
  hello.software_version = MUSTER_VERSION;
  hello.worker = options_.worker;
  hello.node = options_.node;
  hello.executor = options_.executor;
  hello.process_id = options_.process_id;
  hello.slots = options_.slots;
  hello.cores = options_.cores;
  hello.memory_bytes = options_.memory_bytes;
  hello.gpus = options_.gpus;
  hello.labels = options_.labels;
  hello.python = options_.python;
  hello.runs_commands = options_.runs_commands;
  hello.functions = options_.functions;
  hello.held = books_.begin_hello();
  outbox_.emplace_back(std::move(hello));
}

void Agent::disconnected(Time now) {
  set_now(now);
  if (link_ == Link::refused) return;
  link_ = Link::waiting;
  greeted_ = false;
  outbox_.clear();
}

// Nothing that is said now is for us: it answers a HELLO of an earlier connection, or comes from
// somebody who has not proved to be our broker.
bool Agent::is_deaf() const {
  return !greeted_ || link_ == Link::silent || link_ == Link::stranger || link_ == Link::refused;
}

void Agent::receive(Message&& message, Time now) {
  set_now(now);
  // What comes before the answer to HELLO was said on an earlier connection, and takes no account
  // of what HELLO said; or by somebody who has not proved to be our broker.
  const bool is_answer =
      std::holds_alternative<message::Welcome>(message) ||
      (options_.proof.empty() && std::holds_alternative<message::Refuse>(message));
  if (is_deaf() || (link_ == Link::waiting && !is_answer)) {
    ++dropped_messages_;
    return;
  }
  last_heard_ = now;
  std::visit(
      [this](auto& kind) {
        using Kind = std::decay_t<decltype(kind)>;
        if constexpr (kNotForWorkers<Kind>) {
          ++dropped_messages_;
        } else if constexpr (kOfLink<Kind>) {
          handle(kind);
        } else if (!books_.hear(kind)) {
          ++dropped_messages_;
        }
      },
      message);
}

void Agent::tick(Time now) {
  set_now(now);
  if (is_deaf()) return;
  if (now - last_heard_ >= heartbeat_interval_ * heartbeat_misses_) {
    link_ = Link::silent;
    greeted_ = false;
    outbox_.clear();
    return;
  }
  if (outbox_.empty() && now - last_sent_ >= heartbeat_interval_) {
    outbox_.emplace_back(message::Heartbeat{});
  }
}

Time Agent::next_deadline() const {
  if (is_deaf()) return kNever;
  const Time outcomes = link_ == Link::up ? books_.next_outcomes() : kNever;
  return std::min({outcomes, last_sent_ + heartbeat_interval_,
                   last_heard_ + heartbeat_interval_ * heartbeat_misses_});
}

void Agent::handle(message::Welcome& m) {
  if (!options_.proof.empty() && !same_secret(m.proof, options_.proof)) {
    link_ = Link::stranger;
    greeted_ = false;
    outbox_.clear();
    return;
  }
  if (m.protocol_version != limits::kProtocolVersion) {
    message::Refuse refuse{
        message::RefuseCode::version,
        "the broker (" + m.software_version + ") speaks protocol version " +
            std::to_string(m.protocol_version) + ", this worker speaks version " +
            std::to_string(limits::kProtocolVersion) + ": install the same Muster on both sides"};
    handle(refuse);
    return;
  }
  link_ = Link::up;
  pack_ = m.pack;
  heartbeat_interval_ =
      std::clamp<Duration>(m.heartbeat_interval, kShortestHeartbeat, kLongestHeartbeat);
  heartbeat_misses_ = std::clamp(m.heartbeat_misses, 1U, kMostMisses);
  state_changed_ = draining_ || books_.stuck() > 0 || !paused_.empty();
  books_.resend();
}

void Agent::handle(message::Refuse& m) {
  link_ = Link::refused;
  refusal_ = std::move(m.text);
  outbox_.clear();
}

void Agent::handle(message::Unknown&) { say_hello(); }  // while it is up, see receive()

void Agent::handle(message::Heartbeat& m) {
  if (m.reply_wanted) outbox_.emplace_back(message::Heartbeat{m.token, false});
}

// --- The executor's reports ---------------------------------------------------------------------

void Agent::said(std::vector<message::WorkerOutput>&& outputs, Time now) {
  set_now(now);
  for (message::WorkerOutput& output : outputs) {
    if (link_ == Link::up && books_.forwards_output({output.session, output.job})) {
      outbox_.emplace_back(std::move(output));
    } else {
      dropped_lines_ += output.lines.size() + output.dropped;
    }
  }
  outputs.clear();
}

void Agent::finished(std::vector<TaskFinish>&& tasks, Time now) {
  set_now(now);
  books_.finished(std::move(tasks));
}

void Agent::handed_back(const std::vector<Lease>& leases, Time now) {
  set_now(now);
  books_.handed_back(leases);
}

void Agent::set_stuck(std::uint32_t slots, Time now) {
  set_now(now);
  if (books_.set_stuck(slots)) state_changed_ = true;
}

void Agent::drain(Time now) {
  set_now(now);
  if (draining_) return;
  draining_ = true;
  state_changed_ = true;
  books_.set_accepting(false);
  books_.return_unstarted();
}

void Agent::set_paused(const std::string& reason, Time now) {
  set_now(now);
  if (reason == paused_) return;
  paused_ = reason.substr(0, limits::kMaxNameBytes);
  state_changed_ = true;
  books_.set_accepting(!draining_ && paused_.empty());
  if (!paused_.empty()) books_.return_unstarted();
}

// --- Blobs --------------------------------------------------------------------------------------

void Agent::set_sharing(bool shares, Time now) {
  set_now(now);
  books_.set_sharing(shares);
}

void Agent::blob_here(const BlobId& id, Time now) {
  set_now(now);
  books_.blob_here(id);
}

void Agent::blob_gone(const BlobId& id, const std::string& reason, Time now) {
  set_now(now);
  books_.blob_gone(id, reason);
}

void Agent::report(std::vector<BlobReport>&& reports, Time now) {
  set_now(now);
  books_.report(reports);
}

// --- What is to be done -------------------------------------------------------------------------

Agent::Actions Agent::take_actions() {
  books_.settle();
  if (link_ == Link::up) {
    if (std::exchange(state_changed_, false)) {
      outbox_.emplace_back(message::WorkerState{books_.stuck(), draining_, paused_});
    }
    books_.say(outbox_);
  }
  Actions actions;
  actions.messages.swap(outbox_);
  actions.forgets = books_.take_forgets();
  actions.stops = books_.take_stops();
  actions.recalls = books_.take_recalls();
  actions.starts = books_.take_starts();
  actions.blobs = books_.take_requests();
  if (!actions.messages.empty()) last_sent_ = now_;
  return actions;
}

void Agent::check_invariants() const {
  books_.check_invariants();
  CHECK(link_ != Link::up || greeted_);
}

}  // namespace muster
