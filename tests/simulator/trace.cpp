// What a replayed seed prints of every message: who, on which connection, which tasks.
#include <iostream>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {
namespace {

template <typename Range>
std::string list(JobId job, const std::vector<Range>& ranges) {
  std::string text = " job " + std::to_string(value(job)) + ":";
  for (const Range& range : ranges) {
    text += " " + std::to_string(value(range.first)) + "+" + std::to_string(range.count);
  }
  return text;
}
template <typename Run>
std::string list_runs(JobId job, const std::vector<Run>& runs) {
  std::string text = " job " + std::to_string(value(job)) + ":";
  for (const Run& run : runs) {
    const auto& items = [&]() -> const auto& {
      if constexpr (std::is_same_v<Run, TaskRun>) {
        return run.payloads;
      } else {
        return run.outcomes;
      }
    }
    ();
    text += " " + std::to_string(value(run.first)) + "+" + std::to_string(items.size()) +
            " attempt " + std::to_string(value(run.attempt));
  }
  return text;
}

// What a trace says of a message beside its name.
std::string describe(const Message& message) {
  using namespace message;  // NOLINT: the table below is nothing but these names
  if (const auto* m = std::get_if<HelloWorker>(&message)) {
    std::string text;
    for (const HeldLeases& held : m->held) text += list(held.job, held.leases);
    return text;
  }
  if (const auto* m = std::get_if<Submit>(&message)) {
    return list(m->job, std::vector<SequenceRange>{{m->first, m->payloads.size()}});
  }
  if (const auto* m = std::get_if<Cancel>(&message)) return list(m->job, m->ranges);
  if (const auto* m = std::get_if<AcknowledgeOutcomes>(&message)) return list(m->job, m->ranges);
  if (const auto* m = std::get_if<AcknowledgeLeases>(&message)) return list(m->job, m->leases);
  if (const auto* m = std::get_if<Recall>(&message)) return list(m->job, m->leases);
  if (const auto* m = std::get_if<Returned>(&message)) return list(m->job, m->leases);
  if (const auto* m = std::get_if<StopTasks>(&message)) return list(m->job, m->leases);
  if (const auto* m = std::get_if<Tasks>(&message)) return list_runs(m->job, m->runs);
  if (const auto* m = std::get_if<WorkerOutcomes>(&message)) return list_runs(m->job, m->runs);
  if (const auto* m = std::get_if<Outcomes>(&message)) return list_runs(m->job, m->runs);
  return "";
}

}  // namespace

void World::trace(const Link& link, std::uint64_t peer, const char* where,
                  const Message& message) const {
  if (!plan_.trace) return;
  const auto who = link.worker != nullptr ? "worker " + std::to_string(link.worker->id.high)
                                          : "producer " + std::to_string(link.producer->id.high);
  std::cout << now_.count() << " " << who << " on " << peer << ", at the " << where << ": "
            << muster::name_of(message) << describe(message) << "\n";
}

}  // namespace muster::simulator
