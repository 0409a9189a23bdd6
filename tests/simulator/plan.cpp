#include "tests/simulator/plan.hpp"

#include <random>
#include <utility>

namespace muster::simulator {
namespace {

using namespace std::chrono_literals;

// Each fault, its name, and in one of how many seeds it happens.
struct Choice {
  bool Faults::*fault;
  const char* name;
  std::uint64_t one_in;
};
constexpr Choice kChoices[] = {
    {&Faults::link_breaks, "link_breaks", 2},
    {&Faults::partitions, "partitions", 3},
    {&Faults::worker_crashes, "worker_crashes", 2},
    {&Faults::broker_crashes, "broker_crashes", 2},
    {&Faults::poison, "poison", 3},
    {&Faults::errors, "errors", 2},
    {&Faults::cancels, "cancels", 2},
    {&Faults::caps, "caps", 2},
    {&Faults::output, "output", 2},
    {&Faults::resources, "resources", 2},
    {&Faults::pauses, "pauses", 3},
    {&Faults::blobs, "blobs", 2},
    {&Faults::absences, "absences", 4},
    {&Faults::stalls, "stalls", 3},
    {&Faults::half_open, "half_open", 3},
    {&Faults::late, "late", 2},
    {&Faults::hostile, "hostile", 4},
    {&Faults::leaves, "leaves", 3},
    {&Faults::deaths, "deaths", 4},
};

}  // namespace

Plan Plan::draw(std::uint64_t seed) {
  std::mt19937_64 generator(seed * 0x9e3779b97f4a7c15ULL + 1);
  const auto random = [&](std::uint64_t below) { return generator() % below; };
  const auto coin = [&] { return random(2) == 0; };
  Plan plan;
  plan.seed = seed;
  for (const Choice& choice : kChoices) plan.faults.*choice.fault = random(choice.one_in) == 0;
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
  for (const Choice& choice : kChoices) {
    if (faults.*choice.fault) text += std::string(" ") + choice.name;
  }
  return text;
}

}  // namespace muster::simulator
