// What goes wrong in the simulated world, and time, which passes for everybody.
#include <algorithm>
#include <utility>

#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {

using namespace std::chrono_literals;

namespace {

constexpr Duration kTick = 100ms;

}  // namespace

// --- Time
// -----------------------------------------------------------------------------

void World::schedule_ticks() {
  if (scheduler_ && !broker_still_) {
    scheduler_->tick(now_);
    look_for_lost();
    pump_broker();
  }
  for (auto& worker : workers_) {
    if (worker && !worker->link.still) tick_worker(*worker);
  }
  for (auto& producer : producers_) {
    if (!producer->gone && !producer->link.still) tick_producer(*producer);
  }
  after(kTick, [this] { schedule_ticks(); });
}

void World::tick_worker(Worker& worker) {
  worker.agent.tick(now_);
  if (worker.agent.link() == Agent::Link::silent && worker.link.up) {
    count("agent_silent");
    replace_link(worker.link);
  }
  pump_worker(worker);
  const bool is_done = worker.agent.idle() && worker.running.empty() && worker.waiting.empty();
  if (worker.leaves_at != kNever && (is_done || now_ >= worker.leaves_at)) {
    leave_worker(worker.number);
  }
}

void World::tick_producer(Producer& producer) {
  producer.session.tick(now_);
  if (producer.session.link() == Session::Link::silent && producer.link.up) {
    count("session_silent");
    replace_link(producer.link);
  }
  feed(producer);
  pump_producer(producer);
}

// --- Chaos
// -----------------------------------------------------------------------------

World::Link* World::any_link() {
  const std::uint64_t pick = random(plan_.workers + plan_.producers);
  if (pick >= plan_.workers) return &producers_[pick - plan_.workers]->link;
  return workers_[pick] ? &workers_[pick]->link : nullptr;
}

void World::schedule_chaos() {
  if (now_ - kStart >= plan_.chaos) {
    healing_ = true;
    hostile_.reset();
    return;
  }
  break_something();
  hurt_somebody();
  let_somebody_go();
  after(random_duration(1s), [this] { schedule_chaos(); });
}

void World::break_something() {
  Link* link = any_link();
  if (link == nullptr || !link->up) return;
  if (plan_.faults.link_breaks && chance(0.3)) {
    count("link_breaks");
    break_link(*link, random_duration(chance(0.5) ? plan_.max_delay : Duration(2s)));
  } else if (plan_.faults.partitions && chance(0.05)) {
    count("partitions");
    break_link(*link, 10s + random_duration(15s));
  } else if (plan_.faults.absences && chance(0.05)) {
    count(link->worker != nullptr ? "absences_of_workers" : "absences_of_producers");
    break_link(*link, 65s + random_duration(60s));
  } else if (plan_.faults.half_open && link->worker != nullptr && chance(0.1)) {
    // Producers are on the broker's machine: what happens to their sockets both ends see.
    const bool is_mute = chance(0.5);
    count(is_mute ? "half_open_mute" : "half_open_deaf");
    (is_mute ? link->mute : link->deaf) = true;
  }
}

void World::hurt_somebody() {
  if (plan_.faults.worker_crashes && chance(0.1)) {
    crash_worker(static_cast<std::uint32_t>(random(plan_.workers)));
  }
  if (plan_.faults.broker_crashes && chance(0.05)) crash_broker();
  if (plan_.faults.pauses && chance(0.2)) {
    pause_worker(static_cast<std::uint32_t>(random(plan_.workers)));
  }
  if (!plan_.faults.stalls || !chance(0.1)) return;
  // Shorter than the heartbeats bear, longer, or longer than the session grace.
  const std::uint64_t length = random(10);
  Duration time = random_duration(5s);
  if (length >= 5) time = 9s + random_duration(16s);
  if (length >= 8) time = 60s + random_duration(40s);
  if (chance(0.3)) {
    stall_broker(time);
  } else if (Link* link = any_link(); link != nullptr) {
    stall(*link, time);
  }
}

void World::let_somebody_go() {
  if (plan_.faults.cancels && chance(0.2)) {
    Producer& producer = *producers_[random(plan_.producers)];
    if (!producer.gone) producer.cancel_something(random(1'000'000));
    if (!producer.link.still) pump_producer(producer);
  }
  if (plan_.faults.leaves && chance(0.1)) {
    Worker* worker = workers_[random(plan_.workers)].get();
    if (worker != nullptr && !worker->link.still && worker->leaves_at == kNever) {
      count("drains");
      worker->leaves_at = now_ + random_duration(3s);
      worker->agent.drain(now_);
      pump_worker(*worker);
    }
  }
  if (plan_.faults.deaths && chance(0.05)) {
    Producer& producer = *producers_[random(plan_.producers)];
    if (!producer.gone && !producer.link.still) leave_producer(producer, chance(0.5));
  }
}

// --- Standing still: swapped out, suspended, stopped. The clock goes on, and so do connections.
// -----------------------------------------------------------------------------

void World::stall(Link& link, Duration time) {
  if (link.dead || link.still) return;
  count(link.worker != nullptr ? "stalls_of_workers" : "stalls_of_producers");
  link.still = true;
  after(time, [this, &link] { go_on(link); });
}

void World::go_on(Link& link) {
  link.still = false;
  if (link.dead) return link.happened.clear();
  // It was not told meanwhile what others have got since.
  if (link.worker != nullptr) link.worker->doubt_ends = now_ + plan_.max_delay;
  if (link.worker != nullptr) link.worker->in_doubt = true;
  const auto tick = [&] {
    if (link.worker != nullptr) return tick_worker(*link.worker);
    if (!link.producer->gone) tick_producer(*link.producer);
  };
  const bool looks_at_clock_first = chance(0.5);
  if (looks_at_clock_first) tick();
  for (Action& action : std::exchange(link.happened, {})) {
    if (!link.dead) action();
  }
  if (!looks_at_clock_first && !link.dead) tick();
}

void World::stall_broker(Duration time) {
  if (!scheduler_ || broker_still_) return;
  count("stalls_of_the_broker");
  broker_still_ = true;
  after(time, [this, number = incarnations_] {
    if (number != incarnations_ || !scheduler_) return;
    broker_still_ = false;
    const bool looks_at_clock_first = chance(0.5);
    if (looks_at_clock_first) scheduler_->tick(now_);
    look_for_lost();
    for (Action& action : std::exchange(broker_happened_, {})) action();
    pump_broker();
    if (looks_at_clock_first) return;
    scheduler_->tick(now_);
    look_for_lost();
    pump_broker();
  });
}

// --- Somebody hostile
// -----------------------------------------------------------------------------

void World::schedule_hostility() {
  if (!hostile_) return;  // it is gone, and its connections with it
  if (scheduler_ && !broker_still_) {
    HostilePeer::Said said = hostile_->speak(*scheduler_);
    if (said.connects) said.peer = hostile_->connect(next_peer_++);
    if (chance(0.3)) claim(said);
    count("hostile_" + said.kind);
    const PeerId peer{said.peer};
    if (const auto* error = std::get_if<DecodeError>(&said.what)) {
      scheduler_->malformed(peer, error->code, error->reason, now_);
    } else {
      scheduler_->receive(peer, std::get<Message>(std::move(said.what)), now_,
                          said.user ? &*said.user : nullptr);
    }
    pump_broker();
  }
  after(random_duration(50ms), [this] { schedule_hostility(); });
}

// Instead of what it was about to say: that it has finished, or gives back, tasks of the others;
// or, over the network, that it is one of them.
void World::claim(HostilePeer::Said& said) {
  const Producer& producer = *producers_[random(plan_.producers)];
  const Producer::JobTruth& job = *producer.jobs[random(producer.jobs.size())];
  const auto worker = scheduler_->worker_at(PeerId{said.peer});
  if (chance(0.2)) {
    const Worker* honest = workers_[random(plan_.workers)].get();
    if (honest == nullptr || !scheduler_->worker_named(honest->id)) return;
    message::HelloWorker hello;
    hello.software_version = "0.1";
    hello.worker = honest->id;
    hello.node = "mallory";
    hello.executor = "thread";
    hello.slots = 1;
    said = {said.peer, Message(hello), RemoteUser{"mallory", "", true}, "masks", false};
    return;
  }
  if (!worker || job.truth.empty()) return;
  const TaskSequence sequence{random(job.truth.size())};
  const Attempt attempt{static_cast<std::uint32_t>(random(3))};
  // Who runs it now, or ran it when the broker lost sight, may say so; workers are trusted that
  // far.
  if (scheduler_->expects_outcome(worker->id, producer.id, job.id, sequence, attempt)) return;
  said.kind = "claims";
  if (chance(0.5)) {
    said.what = Message(message::Returned{producer.id, job.id, {{sequence, 1, attempt}}});
  } else {
    OutcomeRun run{sequence, attempt, {{OutcomeStatus::result, {Bytes::copy("stolen"), 0}}}};
    said.what = Message(message::WorkerOutcomes{producer.id, job.id, 1ms, {std::move(run)}});
  }
}

}  // namespace muster::simulator
