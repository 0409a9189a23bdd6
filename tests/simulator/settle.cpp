// The end of every run: all is done and said, so that nobody may hold anything any more.
#include <algorithm>
#include <utility>

#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {

using namespace std::chrono_literals;

namespace {

// The session grace of whoever died without a word, and of what workers reported of it; heartbeats
// that are overdue; a slow consumer.
constexpr Duration kSettleBound = 400s;

}  // namespace

void World::settle() {
  for (auto& producer : producers_) {
    if (producer->gone) continue;
    for (const auto& job : producer->jobs) let_go_of_blobs(*producer, job->body);
    pump_producer(*producer);
  }
  wait_until_nothing_is_held("done", &World::held_tasks);
  closing_ = true;
  for (auto& producer : producers_) {
    if (!producer->gone) leave_producer(*producer, chance(0.5));
  }
  wait_until_nothing_is_held("closed", &World::held_sessions);
  if (failure_.empty()) check_counters();
  count("settled");
}

void World::wait_until_nothing_is_held(const char* phase, std::string (World::*held)() const) {
  const Time deadline = now_ + kSettleBound;
  while (failure_.empty()) {
    const std::string what = (this->*held)();
    if (what.empty()) return;
    if (now_ > deadline) return fail(std::string("all is ") + phase + ", but held are: " + what);
    const Time next = now_ + 100ms;
    while (failure_.empty() && now_ < next) step();
  }
}

// What is left of tasks though every outcome was delivered and acknowledged.
std::string World::held_tasks() const {
  std::string text;
  if (!scheduler_) return "the broker is away";
  if (const std::uint64_t tasks = scheduler_->tasks_held(); tasks > 0) {
    text += "tasks at the broker: " + std::to_string(tasks) + "; ";
  }
  for (const auto& row : scheduler_->status(now_).jobs) {
    text += "job " + std::to_string(row.job) + " of session " + row.session + "; ";
  }
  for (const auto& producer : producers_) {
    if (producer->gone) continue;
    const Session& session = producer->session;
    if (session.jobs() > 0 || session.tasks_in_hand() > 0 || session.tasks_at_broker() > 0 ||
        session.bytes_in_hand() > 0) {
      text += "jobs or tasks of producer " + std::to_string(producer->id.high) + "; ";
    }
  }
  if (files_.pinned() > 0) text += "blobs: " + std::to_string(files_.pinned()) + "; ";
  return text;
}

// What is left of sessions though every producer is gone.
std::string World::held_sessions() const {
  std::string text = held_tasks();
  if (!scheduler_) return text;
  const message::Status status = scheduler_->status(now_);
  if (status.sessions > 0) text += "sessions: " + std::to_string(status.sessions) + "; ";
  for (const auto& row : status.workers) {
    if (row.leases > 0) text += "leases of " + row.node + ": " + std::to_string(row.leases) + "; ";
  }
  for (const auto& worker : workers_) {
    if (!worker) continue;
    if (!worker->agent.idle()) text += "leases at worker " + std::to_string(worker->number) + "; ";
    if (worker->agent.jobs() > 0) text += "jobs at worker " + std::to_string(worker->number) + "; ";
    if (!worker->running.empty() || !worker->waiting.empty()) {
      text += "tasks in the executor of worker " + std::to_string(worker->number) + "; ";
    }
    if (!worker->needed.empty()) {
      text += "blobs that worker " + std::to_string(worker->number) + " needs; ";
    }
  }
  return text;
}

// Whoever came is here, or went.
void World::check_counters() {
  const std::uint64_t came = scheduler_->counter("workers");
  const std::uint64_t went =
      scheduler_->counter("workers_lost") + scheduler_->counter("workers_left");
  const std::size_t here = scheduler_->status(now_).workers.size();
  if (came != went + here) {
    fail("of " + std::to_string(came) + " workers " + std::to_string(went) + " went and " +
         std::to_string(here) + " are here");
  }
}

}  // namespace muster::simulator
