#include "broker/placement/recalls.hpp"

#include <algorithm>
#include <utility>

namespace muster {
namespace {

// A recall is worth its messages when it brings a task forward by this much.
constexpr Duration kRecallGain = std::chrono::milliseconds(2);
// What a byte takes to another machine, about: a gigabit link.
constexpr Duration kPerByte = std::chrono::nanoseconds(10);
// Workers with waiting leases that one turn looks at for quicker places.
constexpr std::size_t kGivers = 2;

}  // namespace

void Recalls::recall_unstarted(Time now) {
  const bool all_have_leases = books_.queue().empty() && books_.queue().waiting() == 0;
  if (!all_have_leases && !books_.workers().has_idle_slot()) return;
  recall_waiting(now);
  for (std::uint32_t index = 0; index < books_.workers().classes().size(); ++index) {
    const WorkerIndex idle = books_.workers().least_loaded(index);
    const WorkerIndex loaded = books_.workers().most_loaded(index);
    if (idle == kNoWorker || idle == loaded) continue;
    const WorkerRecord& taker = books_.worker(idle);
    const WorkerRecord& giver = books_.worker(loaded);
    if (books_.workers().level(idle) >= kFullLevel ||
        books_.workers().level(loaded) <= kFullLevel || giver.recall_until > now)
      continue;
    const std::uint64_t waiting = giver.load() - giver.usable_slots();
    const std::uint64_t idle_slots = taker.usable_slots() - taker.load();
    const std::uint64_t count = std::min(waiting, std::max(idle_slots, waiting / 2));
    recall_from(loaded, idle, static_cast<std::uint32_t>(count), now);
  }
}

void Recalls::recall_from(WorkerIndex index, WorkerIndex taker, std::uint32_t count, Time now) {
  WorkerRecord& worker = books_.worker(index);
  const std::uint32_t total = count;
  message::Recall recall;
  for (auto run = worker.order.rbegin(); run != worker.order.rend() && count > 0; ++run) {
    JobRecord* job = books_.find_job(run->job);
    if (job == nullptr) continue;
    if (!recall.leases.empty() && (recall.job != job->id || recall.session != job->session->id)) {
      break;
    }
    for (std::uint64_t sequence = run->first + run->count; sequence-- > run->first && count > 0;) {
      const TaskRecord* task = job->find(sequence);
      if (!books_.is_open(index, *run, task) || task->stopping) continue;
      // What waits behind the slots must be worth a round trip …
      const Duration wait = job->mean_duration * total / std::max(worker.usable_slots(), 1U);
      const Duration gain = wait - 2 * worker.round_trip - kRecallGain;
      if (gain < Duration(0) && recall.leases.empty()) return;
      if (taker != kNoWorker && transfer_time(*job, *task, taker) > gain) continue;  // … and this
      if (recall.leases.empty()) {
        recall.session = job->session->id;
        recall.job = job->id;
      }
      recall.leases.push_back({TaskSequence{sequence}, 1, run->attempt});
      --count;
    }
  }
  send_recall(index, std::move(recall), now);
}

// At the tail of a job, leases that wait for blobs go to idle slots whose worker has these.
void Recalls::recall_waiting(Time now) {
  for (std::size_t i = 0; i < std::min(books_.waiting_workers().size(), kGivers); ++i) {
    if (!books_.workers().has_idle_slot()) return;
    auto giver = books_.waiting_workers().lower_bound(next_giver_);
    if (giver == books_.waiting_workers().end()) giver = books_.waiting_workers().begin();
    next_giver_ = *giver + 1;
    const WorkerRecord& worker = books_.worker(*giver);
    if (worker.recall_until <= now && worker.present) recall_waiting(*giver, now);
  }
}

void Recalls::recall_waiting(WorkerIndex index, Time now) {
  const WorkerRecord& giver = books_.worker(index);
  std::uint64_t count = giver.idle_leases();
  std::size_t looks = 0;
  message::Recall recall;
  for (auto run = giver.order.rbegin(); run != giver.order.rend() && count > 0; ++run) {
    JobRecord* job = books_.find_job(run->job);
    if (job == nullptr || !job->names_blobs) continue;
    if (!recall.leases.empty() && (recall.job != job->id || recall.session != job->session->id)) {
      break;
    }
    for (std::uint64_t sequence = run->first + run->count; sequence-- > run->first && count > 0;) {
      if (++looks > kLooks) return send_recall(index, std::move(recall), now);
      const TaskRecord* task = job->find(sequence);
      if (!books_.is_open(index, *run, task) || !task->fetches || task->stopping) continue;
      if (job->is_last_chance(*task)) continue;  // it goes where it runs alone, not to its blobs
      if (!lacks_blobs(*job, *task, giver)) continue;
      if (recall.leases.empty()) {
        const Choice near = search_.find(*job, *task);
        if (near.worker == kNoWorker || near.missing_bytes > 0 || near.level >= kFullLevel) return;
        const WorkerRecord& taker = books_.worker(near.worker);
        count = std::min<std::uint64_t>(count, taker.usable_slots() - taker.load());
        recall.session = job->session->id;
        recall.job = job->id;
      }
      recall.leases.push_back({TaskSequence{sequence}, 1, run->attempt});
      --count;
    }
  }
  send_recall(index, std::move(recall), now);
}

// What the worker would take about to fetch what it lacks.
Duration Recalls::transfer_time(const JobRecord& job, const TaskRecord& task,
                                WorkerIndex index) const {
  const std::uint64_t missing =
      std::min(missing_bytes(job, task, books_.worker(index)), kMostBlobBytes);
  return kPerByte * static_cast<std::int64_t>(missing);
}

void Recalls::send_recall(WorkerIndex index, message::Recall&& recall, Time now) {
  if (recall.leases.empty()) return;
  WorkerRecord& worker = books_.worker(index);
  books_.count("recalls");
  worker.recall_until = now + 4 * worker.round_trip + std::chrono::milliseconds(20);
  out_.send(books_.worker(index), std::move(recall));
}

}  // namespace muster
