#include "tests/simulator/world.hpp"

#include <algorithm>
#include <utility>

#include "tests/simulator/parts.hpp"

namespace muster::simulator {
namespace {

using namespace std::chrono_literals;

constexpr Duration kTick = 100ms;
// Everything must be done this long after the last fault, work aside: grace times and heartbeats
// many times over.
constexpr Duration kQuietBound = 600s;
// The tables are checked whole; not after every step, or a seed takes minutes.
constexpr std::uint64_t kCheckEvery = 16;

}  // namespace

Plan Plan::draw(std::uint64_t seed) {
  std::mt19937_64 generator(seed * 0x9e3779b97f4a7c15ULL + 1);
  const auto random = [&](std::uint64_t below) { return generator() % below; };
  const auto coin = [&] { return random(2) == 0; };
  Plan plan;
  plan.seed = seed;
  plan.faults = {coin(), random(3) == 0, coin(), coin(), random(3) == 0, coin(),
                 coin(), coin(),         coin(), coin(), random(3) == 0, coin()};
  plan.workers = 1 + static_cast<std::uint32_t>(random(4));
  plan.producers = 1 + static_cast<std::uint32_t>(random(3));
  plan.jobs_per_producer = 1 + static_cast<std::uint32_t>(random(3));
  plan.tasks_per_job = 1 + random(150);
  plan.max_slots = 1 + static_cast<std::uint32_t>(random(4));
  plan.credit_tasks = coin() ? 1000 : 1 + random(20);
  constexpr Duration kTasks[] = {20us, 1ms, 50ms, 2s};
  plan.max_task = kTasks[random(4)];
  constexpr Duration kDelays[] = {100us, 5ms, 100ms};
  plan.max_delay = kDelays[random(3)];
  constexpr Duration kTransfers[] = {1ms, 100ms, 5s};
  plan.max_transfer = kTransfers[random(3)];
  plan.chaos = 5s + random(40) * 1s;
  return plan;
}

std::string Plan::describe() const {
  std::string text = "seed " + std::to_string(seed) + ": " + std::to_string(producers) +
                     " producers x " + std::to_string(jobs_per_producer) + " jobs x " +
                     std::to_string(tasks_per_job) + " tasks, " + std::to_string(workers) +
                     " workers, faults:";
  if (faults.link_breaks) text += " link_breaks";
  if (faults.partitions) text += " partitions";
  if (faults.worker_crashes) text += " worker_crashes";
  if (faults.broker_crashes) text += " broker_crashes";
  if (faults.poison) text += " poison";
  if (faults.errors) text += " errors";
  if (faults.cancels) text += " cancels";
  if (faults.caps) text += " caps";
  if (faults.output) text += " output";
  if (faults.resources) text += " resources";
  if (faults.pauses) text += " pauses";
  if (faults.blobs) text += " blobs";
  return text;
}

World::World(const Plan& plan) : plan_(plan), generator_(plan.seed) {}
World::~World() = default;

void World::after(Duration delay, Action action) {
  events_.push({now_ + delay, ++order_, std::make_shared<Action>(std::move(action))});
}
std::uint64_t World::random(std::uint64_t below) { return generator_() % below; }
bool World::chance(double probability) {
  return static_cast<double>(random(1'000'000)) < probability * 1e6;
}
Duration World::random_duration(Duration below) {
  return Duration(1 + static_cast<std::int64_t>(random(static_cast<std::uint64_t>(below.count()))));
}
void World::fail(const std::string& what) {
  if (failure_.empty()) failure_ = "at " + std::to_string(now_.count()) + " ns: " + what;
}

std::string World::run() {
  start_broker();
  for (std::uint32_t i = 0; i < plan_.workers; ++i) start_worker(i);
  for (std::uint32_t i = 0; i < plan_.producers; ++i) start_producer(i);
  schedule_ticks();
  schedule_chaos();
  std::uint64_t steps = 0;
  // All the work on one slot, twice: retries and second runs. And every blob anew for each.
  const Duration transfer = plan_.faults.blobs ? plan_.max_transfer : Duration(0);
  const Duration work =
      2 * (plan_.max_task + transfer) *
      static_cast<std::int64_t>(plan_.producers * plan_.jobs_per_producer * plan_.tasks_per_job);
  while (failure_.empty() && !(healing_ && finished())) {
    if (events_.empty()) {
      fail("nothing is left to happen, but tasks are missing: " + missing());
      break;
    }
    const Event event = events_.top();
    events_.pop();
    now_ = event.time;
    (*event.action)();
    digest_ = (digest_ ^ static_cast<std::uint64_t>(now_.count()) ^ event.order) * 1099511628211ULL;
    if (++steps % kCheckEvery == 0) check();
    if (now_ > plan_.chaos + kQuietBound + work) fail("not quiet in time: " + missing());
  }
  check();
  count("steps", steps);
  if (!scheduler_) return failure_;
  for (const auto& [name, value] : scheduler_->counters()) count(name, value);
  return failure_;
}

// --- Network
// --------------------------------------------------------------------------------------

void World::connect(Link& link) {
  if (link.up || link.dead) return;
  if (!scheduler_) {  // nobody listens: try again, as ZeroMQ does
    after(100ms, [this, &link] { connect(link); });
    return;
  }
  link.up = true;
  ++link.connection;
  link.peer = next_peer_++;
  link.last_to_broker = link.last_to_peer = now_;
  peers_[link.peer] = &link;
  link.on_connected();
}

void World::break_link(Link& link, Duration away) {
  if (link.up) {
    peers_.erase(link.peer);  // the broker is not told; its sends fail from now on
    link.up = false;
    ++link.connection;  // what is in flight is lost, both ways
  }
  after(away, [this, &link] { connect(link); });
}

void World::to_broker(Link& link, const Message& message) {
  if (!link.up) return;  // ZeroMQ would keep some of it; losing all of it is harsher
  const Frames frames = encode(message, Packing::when_smaller);
  // First in, first out on each connection.
  link.last_to_broker = std::max(link.last_to_broker, now_ + random_duration(plan_.max_delay));
  after(link.last_to_broker - now_, [this, &link, connection = link.connection, frames] {
    deliver_to_broker(link, connection, frames);
  });
}

void World::deliver_to_broker(Link& link, std::uint64_t connection, const Frames& frames) {
  if (link.connection != connection || !scheduler_) return;
  auto decoded = decode(frames);
  if (auto* error = std::get_if<DecodeError>(&decoded)) {
    fail("the codec refused a message of ours: " + error->reason);
    return;
  }
  Message message = std::get<Message>(std::move(decoded));
  pull_results(link, message);
  scheduler_->receive(PeerId{link.peer}, std::move(message), now_);
  pump_broker();
}

void World::deliver_to_peer(Link& link, std::uint64_t connection, const Frames& frames) {
  if (link.connection != connection) return;
  auto decoded = decode(frames);
  if (auto* error = std::get_if<DecodeError>(&decoded)) {
    fail("the codec refused a message of ours: " + error->reason);
    return;
  }
  Message message = std::get<Message>(std::move(decoded));
  if (const auto* refused = std::get_if<message::Refuse>(&message)) {
    fail("the broker refused one of ours: " + refused->text);
  }
  link.on_message(std::move(message));
}

void World::pump_broker() {
  while (scheduler_) {
    std::vector<Outgoing> outgoing = scheduler_->take_outgoing(now_);
    if (outgoing.empty()) return;
    for (const Outgoing& out : outgoing) {
      const auto found = peers_.find(static_cast<std::uint64_t>(out.peer));
      if (found == peers_.end()) {
        scheduler_->disconnected(out.peer, now_);
        continue;
      }
      Link& link = *found->second;
      const Frames frames = encode(out.message, Packing::when_smaller);
      link.last_to_peer = std::max(link.last_to_peer, now_ + random_duration(plan_.max_delay));
      after(link.last_to_peer - now_, [this, &link, connection = link.connection, frames] {
        deliver_to_peer(link, connection, frames);
      });
    }
  }
}

// --- Broker
// ---------------------------------------------------------------------------------------

void World::start_broker() {
  SchedulerOptions options;
  options.incarnation = {++incarnations_, plan_.seed + 1};
  options.software_version = "simulated";
  options.credit_tasks = plan_.credit_tasks;
  options.blobs = &files_;
  options.blob_folders = {"/memory", "/disk"};
  scheduler_ = std::make_unique<Scheduler>(options, now_);
}

void World::crash_broker() {
  if (!scheduler_) return;
  count("broker_crashes");
  for (const auto& [name, value] : scheduler_->counters()) count(name, value);
  scheduler_.reset();
  files_.forget_pins();
  if (chance(0.3)) files_.drop_cached();  // the machine started again, too
  const auto cut = [&](Link& link) {
    if (link.up) break_link(link, 50ms + random_duration(500ms));
  };
  for (auto& worker : workers_) {
    if (worker) cut(worker->link);
  }
  for (auto& producer : producers_) cut(producer->link);
  after(random_duration(3s), [this] { start_broker(); });
}

// --- Chaos and checks
// -----------------------------------------------------------------------------

void World::schedule_ticks() {
  if (scheduler_) {
    scheduler_->tick(now_);
    pump_broker();
  }
  for (auto& worker : workers_) {
    if (!worker) continue;
    worker->agent.tick(now_);
    if (worker->agent.link() == Agent::Link::silent && worker->link.up) {
      count("agent_silent");
      break_link(worker->link, 50ms);
    }
    pump_worker(*worker);
  }
  for (auto& producer : producers_) {
    producer->session.tick(now_);
    if (producer->session.link() == Session::Link::silent && producer->link.up) {
      count("session_silent");
      break_link(producer->link, 50ms);
    }
    feed(*producer);
    pump_producer(*producer);
  }
  after(kTick, [this] { schedule_ticks(); });
}

void World::schedule_chaos() {
  const auto any_link = [this]() -> Link* {
    const std::uint64_t pick = random(plan_.workers + plan_.producers);
    if (pick >= plan_.workers) return &producers_[pick - plan_.workers]->link;
    return workers_[pick] ? &workers_[pick]->link : nullptr;
  };
  if (now_ >= plan_.chaos) {
    healing_ = true;
    return;
  }
  Link* link = any_link();
  if (plan_.faults.link_breaks && chance(0.3) && link != nullptr && link->up) {
    count("link_breaks");
    break_link(*link, random_duration(2s));
  } else if (plan_.faults.partitions && chance(0.05) && link != nullptr && link->up) {
    count("partitions");
    break_link(*link, 10s + random_duration(15s));
  }
  if (plan_.faults.worker_crashes && chance(0.1)) {
    crash_worker(static_cast<std::uint32_t>(random(plan_.workers)));
  }
  if (plan_.faults.broker_crashes && chance(0.05)) crash_broker();
  if (plan_.faults.pauses && chance(0.2)) {
    pause_worker(static_cast<std::uint32_t>(random(plan_.workers)));
  }
  if (plan_.faults.cancels && chance(0.2)) {
    Producer& producer = *producers_[random(plan_.producers)];
    producer.cancel_something(random(1'000'000));
    pump_producer(producer);
  }
  after(random_duration(1s), [this] { schedule_chaos(); });
}

void World::check() {
  if (scheduler_) scheduler_->check_invariants();
  check_caps();
  for (const auto& worker : workers_) {
    if (!worker) continue;
    worker->agent.check_invariants();
    if (worker->running.size() > worker->slots) fail("a worker runs more tasks than it has slots");
  }
  for (const auto& producer : producers_) {
    producer->session.check_invariants();
    for (const auto& job : producer->jobs) job->collector.check_invariants();
    if (producer->session.tasks_at_broker() > plan_.credit_tasks) fail("credit exceeded");
  }
}

// What the broker says of capped jobs; adopted leases of before its crash may come on top.
void World::check_caps() {
  if (!scheduler_ || !plan_.faults.caps) return;
  for (const message::JobStatus& row : scheduler_->status(now_).jobs) {
    for (const auto& producer : producers_) {
      if (row.session != scheduler_->shown(producer->id)) continue;
      const std::uint32_t cap = producer->jobs.at(row.job - 1)->cap;
      if (cap == 0 || row.leased < cap) continue;
      count("caps_reached");
      if (row.leased > cap && scheduler_->counter("leases_adopted") == 0) fail("a cap is exceeded");
    }
  }
}

bool World::finished() const {
  return std::all_of(producers_.begin(), producers_.end(), [](const auto& producer) {
    return std::all_of(producer->jobs.begin(), producer->jobs.end(), [](const auto& job) {
      return job->truth.size() == job->total && job->collector.finished();
    });
  });
}

std::string World::missing() const {
  std::string text;
  for (const auto& producer : producers_) {
    for (const auto& job : producer->jobs) {
      text += "[job " + std::to_string(value(job->id)) + ": " +
              std::to_string(job->collector.returned_count()) + " of " +
              std::to_string(job->total) + "] ";
    }
  }
  if (scheduler_) {
    for (const auto& row : scheduler_->status(now_).jobs) {
      text += "broker{queued " + std::to_string(row.queued) + " leased " +
              std::to_string(row.leased) + " " + row.waiting + "} ";
    }
  }
  return text;
}

}  // namespace muster::simulator
