// The broker of the simulated world and its connections.
//
// What ZeroMQ does to messages, and what the world does therefore:
// - On one connection each message arrives once, in order, or not at all. Nothing is duplicated:
//   what arrives twice was said twice, on two connections.
// - A connection that breaks loses what was on its way, or (`late`) the broker still reads what it
//   had got, under the old connection's name, before or after the peer is back on a new one.
// - A DEALER connects again by itself. What the application had not read yet is still there (the
//   loops drop it when they learn of the new connection, before they say HELLO); what the socket
//   had not sent yet is the first that the new connection says, before HELLO.
// - An application that closes its socket and makes a new one loses both.
// - A ROUTER is never told that a connection is gone: its next send fails.
// One thing it could do is left out, because it takes a broker that stands still for two
// reconnects of one peer: HELLO of an older connection is not read after that of a newer one.
#include <algorithm>
#include <utility>

#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {

using namespace std::chrono_literals;

namespace {

constexpr std::size_t kUnsent = 50;  // messages that a socket keeps while it is not connected

}  // namespace

void World::connect(Link& link) {
  if (link.up || link.dead) return;
  // Nobody listens, or nobody is there to speak: try again, as ZeroMQ does.
  if (!scheduler_ || broker_still_ || link.still) {
    after(100ms, [this, &link] { connect(link); });
    return;
  }
  link.up = true;
  link.mute = link.deaf = false;
  link.late_here = 0;
  ++link.connection;
  link.peer = next_peer_++;
  link.last_to_broker = link.last_to_peer = now_;
  peers_[link.peer] = &link;
  for (const Frames& frames : std::exchange(link.unsent, {})) {
    count("unsent_said");
    say(link, frames);
  }
  link.on_connected();
}

// The network breaks it; its owner's socket stays.
void World::break_link(Link& link, Duration away) {
  if (link.up) {
    peers_.erase(link.peer);  // the broker is not told; its sends fail from now on
    link.up = false;
    link.late = plan_.faults.late && chance(0.5) ? link.connection : 0;
    link.late_here = plan_.faults.late && chance(0.5) ? link.connection : 0;
    ++link.connection;  // what is in flight is lost, both ways, unless it is late
  }
  after(away, [this, &link] { connect(link); });
}

// Its owner gave it up and makes a new one.
void World::replace_link(Link& link) {
  break_link(link, 50ms);
  link.late_here = 0;
  link.unsent.clear();
}

void World::to_broker(Link& link, const Message& message) {
  const Frames frames = encode(message, Packing::when_smaller);
  if (link.up) {
    if (!link.mute) say(link, frames);
  } else if (plan_.faults.late && !link.dead && link.unsent.size() < kUnsent) {
    link.unsent.push_back(frames);
  }
}

void World::say(Link& link, const Frames& frames) {
  // First in, first out on each connection.
  link.last_to_broker = std::max(link.last_to_broker, now_ + random_duration(plan_.max_delay));
  after(link.last_to_broker - now_, [this, &link, connection = link.connection, peer = link.peer,
                                     frames] { arrive_at_broker(link, connection, peer, frames); });
}

void World::arrive_at_broker(Link& link, std::uint64_t connection, std::uint64_t peer,
                             const Frames& frames) {
  if (!scheduler_ || (connection != link.connection && connection != link.late)) return;
  if (connection == link.late) count("late_at_broker");
  auto decoded = decode(frames);
  if (auto* error = std::get_if<DecodeError>(&decoded)) {
    fail("the codec refused a message of ours: " + error->reason);
    return;
  }
  Message message = std::get<Message>(std::move(decoded));
  if (!broker_still_) {
    take(link, peer, std::move(message));
    return pump_broker();
  }
  broker_happened_.push_back([this, &link, peer, message = std::move(message)]() mutable {
    take(link, peer, std::move(message));
  });
}

// The broker reads a message.
void World::take(Link& link, std::uint64_t peer, Message&& message) {
  const bool greets = std::holds_alternative<message::HelloProducer>(message) ||
                      std::holds_alternative<message::HelloWorker>(message);
  if (greets && peer != link.peer) return;  // see the top of this file
  link.heard = now_;
  trace(link, peer, "broker", message);
  pull_results(peer, message);
  const auto* said = std::get_if<message::Cancel>(&message);
  const message::Cancel cancel = said == nullptr ? message::Cancel{} : *said;
  const auto* hello = std::get_if<message::HelloWorker>(&message);
  const auto held = hello == nullptr ? std::vector<message::HeldLeases>{} : hello->held;
  const std::uint64_t dropped = scheduler_->counter("messages_before_hello");
  scheduler_->receive(PeerId{peer}, std::move(message), now_);
  const bool is_heard = scheduler_->counter("messages_before_hello") == dropped;
  for (const SequenceRange& range : cancel.ranges) {
    for (std::uint64_t i = 0; is_heard && i < range.count; ++i) {
      audit_.cancel({link.producer->id, value(cancel.job), value(range.first) + i});
    }
  }
  if (!greets) return;
  if (link.worker != nullptr) {
    link.worker->seen = scheduler_->worker_named(link.worker->id).has_value();
    link.worker->doubt_ends = now_ + plan_.max_delay;
    note_untold(*link.worker, held);
  } else {
    after(2 * plan_.max_delay, [this, id = link.producer->id] { audit_.session_returns(id); });
  }
}

void World::arrive_at_peer(Link& link, std::uint64_t connection, const Frames& frames) {
  if (link.dead || (connection != link.connection && connection != link.late_here)) return;
  if (connection == link.connection && link.deaf) return;
  if (connection == link.late_here) count("late_at_peer");
  if (link.still) {
    link.happened.push_back([this, &link, frames] { deliver_to_peer(link, frames); });
  } else {
    deliver_to_peer(link, frames);
  }
}

void World::deliver_to_peer(Link& link, const Frames& frames) {
  if (link.dead) return;
  auto decoded = decode(frames);
  if (auto* error = std::get_if<DecodeError>(&decoded)) {
    fail("the codec refused a message of the broker: " + error->reason);
    return;
  }
  Message message = std::get<Message>(std::move(decoded));
  if (const auto* refused = std::get_if<message::Refuse>(&message)) {
    fail("the broker refused one of ours: " + refused->text);
  }
  trace(link, link.peer, "peer", message);
  link.on_message(std::move(message));
}

void World::pump_broker() {
  while (scheduler_ && !broker_still_) {
    std::vector<Outgoing> outgoing = scheduler_->take_outgoing(now_);
    if (outgoing.empty()) return;
    for (const Outgoing& out : outgoing) {
      const auto peer = static_cast<std::uint64_t>(out.peer);
      if (const auto* tasks = std::get_if<message::Tasks>(&out.message)) check_leases(*tasks);
      if (hostile_ && hostile_->is(peer)) {
        check_refusal(peer, out.message);
        continue;
      }
      const auto found = peers_.find(peer);
      if (found == peers_.end()) {
        scheduler_->disconnected(out.peer, now_);
        continue;
      }
      Link& link = *found->second;
      const Frames frames = encode(out.message, Packing::when_smaller);
      link.last_to_peer = std::max(link.last_to_peer, now_ + random_duration(plan_.max_delay));
      after(link.last_to_peer - now_, [this, &link, connection = link.connection, frames] {
        arrive_at_peer(link, connection, frames);
      });
    }
  }
}

// A peer is told once that it is refused: what it says afterwards is ignored.
void World::check_refusal(std::uint64_t peer, const Message& message) {
  if (!std::holds_alternative<message::Refuse>(message)) return;
  if (!refused_.emplace(incarnations_, peer).second) fail("a peer was refused twice");
}

void World::check_leases(const message::Tasks& tasks) {
  for (const TaskRun& run : tasks.runs) {
    for (std::uint64_t i = 0; i < run.payloads.size(); ++i) {
      const std::string wrong =
          audit_.lease({tasks.session, value(tasks.job), value(run.first) + i});
      if (!wrong.empty()) fail(wrong);
    }
  }
}

// --- The broker's life
// -----------------------------------------------------------------------------

void World::start_broker() {
  SchedulerOptions options;
  options.incarnation = {++incarnations_, plan_.seed + 1};
  options.software_version = "simulated";
  options.credit_tasks = plan_.credit_tasks;
  options.blobs = &files_;
  options.blob_folders = {"/memory", "/disk"};
  // Faults may take every worker away for long.
  options.no_worker_timeout = options.unknown_function_timeout = 10min;
  scheduler_ = std::make_unique<Scheduler>(options, now_);
  sessions_expired_ = 0;
  resume_ends_ = now_ + options.resume_wait;
  after(options.resume_wait, [this, number = incarnations_] {
    if (number != incarnations_) return;
    for (auto& worker : workers_) {  // too late: others may get what they hold
      if (worker && !worker->seen) doubt(*worker);
    }
  });
}

void World::crash_broker() {
  if (!scheduler_) return;
  count("broker_crashes");
  count_broker();
  check_counters();
  scheduler_.reset();
  broker_still_ = false;
  broker_happened_.clear();
  resume_ends_ = kNever;
  audit_.broker_dies();
  files_.forget_pins();
  if (chance(0.3)) files_.drop_cached();  // the machine started again, too
  const auto cut = [&](Link& link) {
    if (link.up) break_link(link, 50ms + random_duration(500ms));
    link.late = 0;
  };
  for (auto& worker : workers_) {
    if (!worker) continue;
    worker->seen = false;
    cut(worker->link);
  }
  for (auto& producer : producers_) cut(producer->link);
  after(random_duration(3s), [this] { start_broker(); });
}

// Whom the broker gave up since it was last asked: their tasks may run elsewhere from now on.
void World::look_for_lost() {
  for (auto& worker : workers_) {
    if (!worker || !worker->seen || scheduler_->worker_named(worker->id)) continue;
    count("lost_from_sight");
    worker->seen = false;
    doubt(*worker);
  }
  const std::uint64_t expired = scheduler_->counter("sessions_expired");
  if (std::exchange(sessions_expired_, expired) == expired) return;
  for (auto& producer : producers_) {
    if (now_ - producer->link.heard < scheduler_->options().session_grace) continue;
    audit_.session_ends(producer->id);
  }
}

void World::doubt(Worker& worker) {
  if (worker.begun.empty() && worker.agent.idle()) return;
  worker.in_doubt = true;
  for (const Audit::TaskName& task : worker.begun) audit_.lose(task);
}

}  // namespace muster::simulator
