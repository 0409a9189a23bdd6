#include "broker/placement/search.hpp"

#include <algorithm>
#include <utility>

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

Choice Search::find(JobRecord& job, const TaskRecord& task) {
  Choice best;
  if (job.demand != nullptr) {
    look_in_demand(job, task, best);
  } else if (job.names_blobs && !books_.workers().all_share()) {
    look_for_blobs(job, task, best);
  } else {
    for (const std::uint32_t index : books_.groups().eligible_classes(job)) {
      const WorkerIndex least = books_.workers().least_loaded(index);
      if (least != kNoWorker) consider(job, task, {least, 1}, best);
    }
  }
  return best;
}

// Takes the candidate as `best` if it is better. False: it has no room.
bool Search::consider(const JobRecord& job, const TaskRecord& task, Demand::Candidate candidate,
                      Choice& best) const {
  const WorkerTable& workers = books_.workers();
  const WorkerRecord& worker = workers.at(candidate.worker);
  Choice choice{candidate.worker, workers.level(candidate.worker), 0, candidate.width};
  // A worker that is kept free for others has no level; for those it comes before all others.
  if (choice.level < 0 && !(job.demand != nullptr && worker.takes_leases() &&
                            books_.reservations().drained() == candidate.worker &&
                            books_.reservations().is_drained_for(*job.demand))) {
    return false;
  }
  choice.missing_bytes = missing_bytes(job, task, worker);
  std::uint64_t load = worker.load();
  if (choice.missing_bytes > 0) {
    load = worker.full_load();
    choice.level = workers.level_with(candidate.worker, load);
  }
  choice.ahead = policy::prefetch(job, worker);
  choice.room = policy::room(job, worker, load, choice.ahead, choice.width);
  if (choice.room == 0) return false;
  if (best.worker == kNoWorker || policy::is_better(task, choice, best)) best = choice;
  return true;
}

void Search::look_in_demand(const JobRecord& job, const TaskRecord& task, Choice& best) {
  Demand& demand = *job.demand;
  const std::vector<Demand::Candidate>& all = demand.candidates;
  if (books_.reservations().is_drained_for(demand)) {  // it is looked at first
    const WorkerIndex drained = books_.reservations().drained();
    const auto own = std::find_if(all.begin(), all.end(),
                                  [&](const auto& entry) { return entry.worker == drained; });
    demand.cursor = static_cast<std::size_t>(own - all.begin());
  }
  std::size_t found = 0;
  for (std::size_t i = 0; i < std::min(all.size(), kLooks) && found < kChoices; ++i) {
    if (demand.cursor >= all.size()) demand.cursor = 0;
    if (consider(job, task, all[demand.cursor++], best)) ++found;
    if (best.worker != kNoWorker && best.worker == books_.reservations().drained()) return;
  }
}

void Search::look_for_blobs(JobRecord& job, const TaskRecord& task, Choice& best) {
  if (std::exchange(searches_turn_, books_.turn()) != books_.turn()) searches_failed_ = 0;
  const std::size_t names = std::size_t{job.spec.function.body.blobs} + task.data.blobs + 1;
  const auto& classes = books_.groups().eligible_classes(job);
  std::size_t looks = searches_failed_ < kFailedSearches ? kLooks : kFewLooks;
  looks = std::min(looks, std::max(kNameLooks / names, kFewLooks));
  looks = std::max<std::size_t>(looks / std::max<std::size_t>(classes.size(), 1), 1);
  for (const std::uint32_t index : classes) {
    const std::size_t members = books_.workers().classes()[index].members.size();
    for (std::size_t i = 0; i < std::min(members, looks); ++i) {
      consider(job, task, {books_.workers().next_member(index), 1}, best);
    }
    if (members <= looks) continue;
    const WorkerIndex least = books_.workers().least_loaded(index);
    if (least != kNoWorker) consider(job, task, {least, 1}, best);
  }
  searches_failed_ += best.worker == kNoWorker ? 1 : 0;
}

WorkerIndex Search::least_loaded(JobRecord& job) {
  const WorkerTable& workers = books_.workers();
  WorkerIndex best = kNoWorker;
  const auto consider = [&](WorkerIndex index) {
    if (index == kNoWorker || workers.level(index) < 0) return;
    if (best == kNoWorker || workers.level(index) < workers.level(best)) best = index;
  };
  if (job.demand == nullptr) {
    for (const std::uint32_t index : books_.groups().eligible_classes(job)) {
      consider(workers.least_loaded(index));
    }
    return best;
  }
  const auto& candidates = job.demand->candidates;
  for (std::size_t i = 0; i < std::min(candidates.size(), kLooks); ++i) {
    consider(candidates[(job.demand->cursor + i) % candidates.size()].worker);
  }
  return best;
}

}  // namespace muster
