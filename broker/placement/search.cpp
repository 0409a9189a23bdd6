#include "broker/placement/search.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "broker/placement/policy.hpp"

namespace muster {
namespace {

constexpr std::size_t kFewLooks = 4;
// Workers with room for a task that asks for resources, among which a search chooses.
constexpr std::size_t kChoices = 8;
// Names of blobs that one search looks up in all.
constexpr std::size_t kNameLooks = 4096;
// Searches in one turn that may find nothing; those behind them look at a few workers only, so
// that many jobs that wait for a holder of their blobs do not slow down the others.
constexpr std::uint32_t kFailedSearches = 16;

}  // namespace

WorkerIndex Search::best_worker(JobRecord& job) {
  WorkerIndex best = kNoWorker;
  for (const std::uint32_t index : books_.groups().eligible_classes(job)) {
    const WorkerIndex candidate = books_.workers().least_loaded(index);
    if (candidate == kNoWorker) continue;
    if (best == kNoWorker || books_.workers().level(candidate) < books_.workers().level(best)) {
      best = candidate;
    }
  }
  return best;
}

Search::Near Search::find_near(JobRecord& job, const TaskRecord& task) {
  Near best;
  const bool came_back = task.attempts_made > 0;
  const auto rank = [&](const Near& near) {
    return std::tuple(came_back && near.missing_bytes > 0, near.level, near.missing_bytes);
  };
  const auto consider = [&](WorkerIndex index) {
    Near near{index, books_.workers().level(index), 0};
    if (near.level < 0) return;
    const WorkerRecord& worker = books_.worker(index);
    near.missing_bytes = missing_bytes(job, task, worker);
    std::uint64_t load = worker.load();
    if (near.missing_bytes > 0) {
      load = worker.full_load();
      near.level = books_.workers().level_with(index, load);
    }
    if (policy::room(job, worker, load) == 0) return;
    if (best.worker == kNoWorker || rank(near) < rank(best)) best = near;
  };
  if (std::exchange(searches_turn_, books_.turn()) != books_.turn()) searches_failed_ = 0;
  const std::size_t names = std::size_t{job.spec.function.body.blobs} + task.data.blobs + 1;
  const auto& classes = books_.groups().eligible_classes(job);
  std::size_t looks = searches_failed_ < kFailedSearches ? kLooks : kFewLooks;
  looks = std::min(looks, std::max(kNameLooks / names, kFewLooks));
  looks = std::max<std::size_t>(looks / std::max<std::size_t>(classes.size(), 1), 1);
  for (const std::uint32_t index : classes) {
    const std::size_t members = books_.workers().classes()[index].members.size();
    for (std::size_t i = 0; i < std::min(members, looks); ++i)
      consider(books_.workers().next_member(index));
    if (members <= looks) continue;
    const WorkerIndex least = books_.workers().least_loaded(index);
    if (least != kNoWorker) consider(least);
  }
  searches_failed_ += best.worker == kNoWorker ? 1 : 0;
  return best;
}

bool Search::has_room(const Demand& demand, const Demand::Candidate& candidate,
                      std::uint64_t load) const {
  const WorkerRecord& worker = books_.worker(candidate.worker);
  const Reservations& reservations = books_.reservations();
  const bool is_own =
      reservations.drained() == candidate.worker && reservations.is_drained_for(demand);
  return policy::has_room(demand, candidate, worker, load, worker.reserved && !is_own);
}

const Demand::Candidate* Search::find_room(const JobRecord& job, const TaskRecord& task) {
  Demand& demand = *job.demand;
  const std::vector<Demand::Candidate>& all = demand.candidates;
  const Demand::Candidate* best = nullptr;
  std::uint64_t least_missing = 0;
  std::size_t found = 0;
  for (std::size_t i = 0; i < std::min(all.size(), kLooks) && found < kChoices; ++i) {
    if (demand.cursor >= all.size()) demand.cursor = 0;
    const Demand::Candidate& candidate = all[demand.cursor++];
    const WorkerRecord& worker = books_.worker(candidate.worker);
    const std::uint64_t missing = missing_bytes(job, task, worker);
    if (!has_room(demand, candidate, missing == 0 ? worker.load() : worker.full_load())) continue;
    if (books_.reservations().drained() == candidate.worker) return &candidate;
    ++found;
    if (best == nullptr || std::pair(books_.workers().level(candidate.worker), missing) <
                               std::pair(books_.workers().level(best->worker), least_missing)) {
      best = &candidate;
      least_missing = missing;
    }
  }
  return best;
}

WorkerIndex Search::least_loaded(const Demand& demand) const {
  WorkerIndex best = kNoWorker;
  for (std::size_t i = 0; i < std::min(demand.candidates.size(), kLooks); ++i) {
    const std::size_t place = (demand.cursor + i) % demand.candidates.size();
    const WorkerIndex index = demand.candidates[place].worker;
    if (books_.workers().level(index) < 0) continue;
    if (best == kNoWorker || books_.workers().level(index) < books_.workers().level(best))
      best = index;
  }
  return best;
}

}  // namespace muster
