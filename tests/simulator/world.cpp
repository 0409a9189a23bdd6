#include "tests/simulator/world.hpp"

#include <algorithm>
#include <utility>

#include "tests/simulator/parts.hpp"

namespace muster::simulator {
namespace {

using namespace std::chrono_literals;

// Everything must be done this long after the last fault, work aside: grace times and heartbeats
// many times over.
constexpr Duration kQuietBound = 900s;
// The tables are checked whole: after every step in one seed of four, else now and then.
constexpr std::uint64_t kCheckEvery = 16;

}  // namespace

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
  if (failure_.empty()) failure_ = "at " + std::to_string((now_ - kStart).count()) + " ns: " + what;
}
void World::count_broker() {
  for (const auto& [name, value] : scheduler_->counters()) count(name, value);
}

std::string World::run() {
  start_broker();
  for (std::uint32_t i = 0; i < plan_.workers; ++i) start_worker(i);
  for (std::uint32_t i = 0; i < plan_.producers; ++i) start_producer(i);
  if (plan_.faults.hostile) {
    hostile_ = std::make_unique<HostilePeer>(plan_.seed);
    schedule_hostility();
  }
  schedule_ticks();
  schedule_chaos();
  // All the work on one slot, twice: retries and second runs. And every blob anew for each.
  const Duration transfer = plan_.faults.blobs ? plan_.max_transfer : Duration(0);
  const Duration work =
      2 * (plan_.max_task + transfer) *
      static_cast<std::int64_t>(plan_.producers * plan_.jobs_per_producer * plan_.tasks_per_job);
  while (failure_.empty() && !(healing_ && finished())) {
    if (!step()) {
      fail("nothing is left to happen, but tasks are missing: " + missing());
    }
    if (now_ - kStart > plan_.chaos + kQuietBound + work) fail("not quiet in time: " + missing());
  }
  if (failure_.empty()) settle();
  check();
  count("steps", steps_);
  if (scheduler_) count_broker();
  return failure_;
}

// The next event; false: there is none.
bool World::step() {
  if (events_.empty()) return false;
  const Event event = events_.top();
  events_.pop();
  now_ = event.time;
  (*event.action)();
  digest_ = (digest_ ^ static_cast<std::uint64_t>(now_.count()) ^ event.order) * 1099511628211ULL;
  if (++steps_ % (plan_.seed % 4 == 0 ? 1 : kCheckEvery) == 0) check();
  return true;
}

// --- What must hold
// -----------------------------------------------------------------------------

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
      if (row.job == 0 || row.job > producer->jobs.size()) continue;  // somebody hostile's
      const std::uint32_t cap = producer->jobs.at(row.job - 1)->cap;
      if (cap == 0 || row.leased < cap) continue;
      count("caps_reached");
      if (row.leased > cap && scheduler_->counter("leases_adopted") == 0) fail("a cap is exceeded");
    }
  }
}

bool World::finished() const {
  return std::all_of(producers_.begin(), producers_.end(), [](const auto& producer) {
    return producer->gone || std::all_of(producer->jobs.begin(), producer->jobs.end(),
                                         [](const auto& job) { return job->finished(); });
  });
}

std::string World::missing() const {
  std::string text;
  for (const auto& producer : producers_) {
    for (const auto& job : producer->jobs) {
      if (producer->gone || job->finished()) continue;
      text += "[producer " + std::to_string(producer->id.high) + " job " +
              std::to_string(value(job->id)) + ": " +
              std::to_string(job->collector.returned_count()) + " of " +
              std::to_string(job->total) + "] ";
    }
  }
  if (!scheduler_) return text + "the broker is away";
  for (const auto& row : scheduler_->status(now_).jobs) {
    text += "broker{queued " + std::to_string(row.queued) + " leased " +
            std::to_string(row.leased) + " " + row.waiting + "} ";
  }
  for (const auto& row : scheduler_->status(now_).workers) {
    text += "worker{slots " + std::to_string(row.slots) + " leases " + std::to_string(row.leases) +
            (row.draining ? " draining" : "") + " " + row.paused + "} ";
  }
  return text;
}

}  // namespace muster::simulator
