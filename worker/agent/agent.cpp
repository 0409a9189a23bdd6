#include "worker/agent/agent.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "common/check.hpp"
#include "common/net/secret.hpp"
#include "common/protocol/resources.hpp"
#include "worker/agent/waiting.hpp"

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

}  // namespace

Agent::Agent(AgentOptions options)
    : options_(std::move(options)),
      heartbeat_interval_(limits::kHeartbeatInterval),
      heartbeat_misses_(limits::kHeartbeatMisses) {
  CHECK(options_.slots >= 1 && options_.slots <= limits::kMaxSlots);
  CHECK(options_.functions.size() <= limits::kMaxFunctions);
  CHECK(options_.labels.size() <= limits::kMaxLabels);
  device_taken_.resize(options_.gpus);
}

// --- Link ---------------------------------------------------------------------------------------

void Agent::connected(Time now) {
  now_ = now;
  if (link_ == Link::refused) return;
  last_heard_ = now;
  say_hello();
}

void Agent::disconnected(Time now) {
  now_ = now;
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
  now_ = now;
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
        if constexpr (kNotForWorkers<std::decay_t<decltype(kind)>>) {
          ++dropped_messages_;
        } else {
          handle(kind);
        }
      },
      message);
}

void Agent::tick(Time now) {
  now_ = now;
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
  const Time outcomes =
      unsent_.empty() || link_ != Link::up ? kNever : unsent_since_ + options_.outcome_window;
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
  state_changed_ = draining_ || stuck_ > 0 || !paused_.empty();
  say_blobs_anew();
  resend_outcomes();
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
  now_ = now;
  for (message::WorkerOutput& output : outputs) {
    const HeldJob* job = known_job({output.session, output.job});
    if (link_ == Link::up && job != nullptr && job->spec->forward_output) {
      outbox_.emplace_back(std::move(output));
    } else {
      dropped_lines_ += output.lines.size() + output.dropped;
    }
  }
  outputs.clear();
}

void Agent::finished(std::vector<TaskFinish>&& tasks, Time now) {
  now_ = now;
  for (TaskFinish& task : tasks) {
    HeldJob* job = nullptr;
    HeldLease* lease = executed(task.lease, job);
    const TaskSequence sequence = task.lease.sequence;
    const bool is_wanted = lease != nullptr && lease->state == LeaseState::started;
    if (!is_wanted) ask_for_each(BlobRequest::Kind::drop, task.outcome.body);
    if (lease == nullptr) continue;
    if (lease->state == LeaseState::abandoned) {
      drop(*job, sequence);
      purge_due_ = purge_due_ || job->forgotten;
    } else if (lease->state == LeaseState::superseded) {
      enqueue(*job, sequence, *lease);
    } else {
      learn(*job, task);
      ++tasks_done_;
      finish(*job, sequence, *lease, std::move(task.outcome), task.busy);
    }
  }
  tasks.clear();
}

void Agent::handed_back(const std::vector<Lease>& leases, Time now) {
  now_ = now;
  for (const Lease& named : leases) {
    HeldJob* job = nullptr;
    HeldLease* lease = executed(named, job);
    if (lease == nullptr) continue;
    if (lease->state == LeaseState::abandoned) {
      drop(*job, named.sequence);
      purge_due_ = purge_due_ || job->forgotten;
    } else if (lease->state == LeaseState::superseded) {
      enqueue(*job, named.sequence, *lease);
    } else if (lease->stopping) {
      finish(*job, named.sequence, *lease, cancelled_unstarted(), Duration::zero());
    } else {
      give_back(job->name, named.sequence, lease->attempt);
      drop(*job, named.sequence);
    }
  }
}

// The lease that the executor reports about, which it no longer has.
HeldLease* Agent::executed(const Lease& lease, HeldJob*& job) {
  job = find_job({lease.session, lease.job});
  HeldLease* held = job == nullptr ? nullptr : job->leases.find(lease.sequence);
  if (held == nullptr || !held->in_executor() || held->executor_attempt != lease.attempt) {
    return nullptr;
  }
  --in_executor_[kind_of(*job->spec)];
  if (!job->demanding) return held;
  --demanding_;
  extra_slots_ -= job->width - 1;
  const auto devices = devices_.find(lease);
  if (devices == devices_.end()) return held;
  for (const std::uint32_t device : devices->second) device_taken_[device] = false;
  devices_.erase(devices);
  return held;
}

void Agent::set_stuck(std::uint32_t slots, Time now) {
  now_ = now;
  const std::uint32_t stuck = std::min(slots, options_.slots);
  if (stuck == stuck_) return;
  stuck_ = stuck;
  state_changed_ = true;
}

void Agent::drain(Time now) {
  now_ = now;
  if (draining_) return;
  draining_ = true;
  state_changed_ = true;
  return_unstarted();
}

void Agent::set_paused(const std::string& reason, Time now) {
  now_ = now;
  if (reason == paused_) return;
  paused_ = reason.substr(0, limits::kMaxNameBytes);
  state_changed_ = true;
  if (!paused_.empty()) return_unstarted();
}

void Agent::return_unstarted() {
  for (const auto& [name, job] : jobs_) {
    HeldJob& held = *job;
    held.leases.for_each(
        [&](TaskSequence sequence, HeldLease& lease) { recall(held, sequence, lease); });
  }
}

}  // namespace muster
