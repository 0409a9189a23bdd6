// Tasks that name blobs: which worker has these, and where a task waits least for them.
//
// A worker that shares the broker's folders has every blob. Another one says what is in its cache
// (WORKER_BLOBS) and fetches what its leases lack; a lease waits there meanwhile and takes no slot.
// So a worker has two loads: that of leases which can start, for tasks whose blobs are there or
// that name none, and that of all its leases, for tasks that would have to wait as well. Leases
// that wait are thereby no more than a worker may have anyway, and it runs meanwhile what it can.
#include <algorithm>
#include <limits>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"

namespace muster {
namespace {

// Workers that one search looks at, as for resources, and names of blobs that it looks up in all.
constexpr std::size_t kLooks = 64;
constexpr std::size_t kFewLooks = 4;
constexpr std::size_t kNameLooks = 4096;
// Searches in one turn that may find nothing; those behind them look at a few workers only, so
// that many jobs that wait for a holder of their blobs do not slow down the others.
constexpr std::uint32_t kFailedSearches = 16;
// Names that are remembered of a worker's cache: 4 GiB in the smallest blobs. Of others the broker
// believes that they are not there, which costs the worker nothing but a place in line.
constexpr std::size_t kMaxWorkerBlobs = 65'536;
// What a byte takes to another machine, about: a gigabit link.
constexpr Duration kPerByte = std::chrono::nanoseconds(10);
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 50;  // a larger size changes no decision
// Workers that were lost while a task waited there, before that counts as lost while running: a
// task that ends its worker at once may never be heard of as started.
constexpr std::uint8_t kMostLostWaiting = 8;
// Workers with waiting leases that one turn looks at for quicker places.
constexpr std::size_t kGivers = 2;

std::uint64_t missing_of(const Payload& payload, const WorkerRecord& worker) {
  std::uint64_t missing = 0;
  for (std::uint32_t i = 0; i < payload.blobs; ++i) {
    const BlobName name = blob_at(payload, i);
    if (worker.blobs.count(name.id) != 0) continue;
    missing += std::clamp<std::uint64_t>(name.size_bytes, 1, kMostBytes);
  }
  return missing;
}

}  // namespace

// --- What workers have
// ----------------------------------------------------------------------------

void Scheduler::hear_blobs(WorkerIndex index, message::WorkerBlobs&& said) {
  WorkerRecord& worker = workers_.at(index);
  workers_.set_shares(index, said.shares);
  for (const BlobId& id : said.removed) worker.blobs.erase(id);
  for (const BlobName& name : said.added) {
    if (worker.blobs.size() < kMaxWorkerBlobs) {
      worker.blobs.insert(name.id);
    } else {
      ++counters_["worker_blobs_unknown"];
    }
  }
  if (said.shares) worker.blobs.clear();
  worker.waiting = said.waiting;
  if (said.waiting > 0) {
    waiting_workers_.insert(index);
  } else {
    waiting_workers_.erase(index);
  }
  workers_.look_at_next(index);
  workers_.note_room(index);
  workers_.update_level(index);
}

// It connects, and says anew what it has.
void Scheduler::forget_blobs(WorkerIndex index) {
  workers_.set_shares(index, false);
  workers_.at(index).blobs.clear();
  workers_.at(index).waiting = 0;
  waiting_workers_.erase(index);
}

void Scheduler::note_blobs(JobRecord& job) {
  blob_jobs_ += std::exchange(job.names_blobs, true) ? 0 : 1;
}

bool Scheduler::lacks_blobs(const JobRecord& job, const TaskRecord& task,
                            const WorkerRecord& worker) const {
  return missing_bytes(job, task, worker) > 0;
}

// Of the blobs that the task and its job's body name; 0: the task can start there.
std::uint64_t Scheduler::missing_bytes(const JobRecord& job, const TaskRecord& task,
                                       const WorkerRecord& worker) const {
  if (!job.names_blobs || worker.shares) return 0;
  return missing_of(job.spec.function.body, worker) + missing_of(task.data, worker);
}

// What the worker would take about to fetch what it lacks.
Duration Scheduler::transfer_time(const JobRecord& job, const TaskRecord& task,
                                  WorkerIndex index) const {
  const std::uint64_t missing = std::min(missing_bytes(job, task, workers_.at(index)), kMostBytes);
  return kPerByte * static_cast<std::int64_t>(missing);
}

// A lease that a worker reported: nobody knows any more whether it had the blobs.
void Scheduler::flag_adopted(const JobRecord& job, TaskRecord& task, WorkerRecord& worker) const {
  flag_fetching(job, task, worker, lacks_blobs(job, task, worker));
}

// Leases that ask for resources are never excluded from the load: their widths must add up.
void Scheduler::flag_fetching(const JobRecord& job, TaskRecord& task, WorkerRecord& worker,
                              bool fetches) const {
  if (task.fetches == fetches) return;
  task.fetches = fetches;
  if (job.demand == nullptr) worker.fetching += fetches ? 1U : 0U - 1U;
}

// --- Leasing
// --------------------------------------------------------------------------------------

// The worker with the least relative load among those with room for the task that are looked at,
// as the task sees them; of several the one that lacks the fewest bytes. A task that came back
// goes where its blobs are, if anyone with room has them: that is what it came back for.
Scheduler::Near Scheduler::find_near(JobRecord& job, const TaskRecord& task) {
  Near best;
  const bool came_back = task.attempts_made > 0;
  const auto rank = [&](const Near& near) {
    return std::tuple(came_back && near.missing_bytes > 0, near.level, near.missing_bytes);
  };
  const auto consider = [&](WorkerIndex index) {
    Near near{index, workers_.level(index), 0};
    if (near.level < 0) return;
    const WorkerRecord& worker = workers_.at(index);
    near.missing_bytes = missing_bytes(job, task, worker);
    std::uint64_t load = worker.load();
    if (near.missing_bytes > 0) {
      load = worker.full_load();
      near.level = workers_.level_with(index, load);
    }
    if (room(job, worker, load) == 0) return;
    if (best.worker == kNoWorker || rank(near) < rank(best)) best = near;
  };
  if (std::exchange(searches_turn_, turn_) != turn_) searches_failed_ = 0;
  const std::size_t names = std::size_t{job.spec.function.body.blobs} + task.data.blobs + 1;
  const auto& classes = eligible_classes(job);
  std::size_t looks = searches_failed_ < kFailedSearches ? kLooks : kFewLooks;
  looks = std::min(looks, std::max(kNameLooks / names, kFewLooks));
  looks = std::max<std::size_t>(looks / std::max<std::size_t>(classes.size(), 1), 1);
  for (const std::uint32_t index : classes) {
    const std::size_t members = workers_.classes()[index].members.size();
    for (std::size_t i = 0; i < std::min(members, looks); ++i)
      consider(workers_.next_member(index));
    if (members <= looks) continue;
    const WorkerIndex least = workers_.least_loaded(index);
    if (least != kNoWorker) consider(least);
  }
  searches_failed_ += best.worker == kNoWorker ? 1 : 0;
  return best;
}

// Leases one batch of a job that names blobs to the worker where its next task is best off, with
// those behind it that are as well off there; false: no worker that was looked at has room.
bool Scheduler::place_near(JobRecord& job, Time now) {
  const auto oldest = job.leasable() == 0 ? std::nullopt : job.peek_queued(false);
  if (!oldest) return false;
  const Near near = find_near(job, *job.find(*oldest));
  if (near.worker == kNoWorker) return false;
  WorkerRecord& worker = workers_.at(near.worker);
  const std::uint64_t share = share_of(job, worker);
  const bool is_short = prefetch(job, worker) > 0;
  message::Tasks tasks{job.session->id, job.id, {}};
  std::size_t bytes = 0;
  std::uint64_t leased = 0;
  while (leased < share && (leased == 0 || bytes < limits::kBatchBytes)) {
    const auto sequence = job.peek_queued(worker.load() >= worker.usable_slots());
    if (!sequence) break;
    const TaskRecord& task = *job.find(*sequence);
    const bool fetches = lacks_blobs(job, task, worker);
    if (fetches && leased > 0 && near.missing_bytes == 0) break;  // another may have its blobs
    const std::uint64_t load = fetches ? worker.full_load() : worker.load();
    if (room(job, worker, load) == 0 || (task.suspect && load >= worker.usable_slots())) break;
    job.take_queued(worker.load() >= worker.usable_slots());
    bytes += task.data.bytes.size();
    const std::uint64_t expected = std::min(share, job.queued + 1);
    lease(job, near.worker, *sequence, {expected, is_short && !fetches, fetches}, tasks);
    ++leased;
  }
  if (leased == 0) return false;
  run_queue_.charge(job, leased);
  send_tasks(job, near.worker, std::move(tasks));
  worker.last_sent = now;
  return true;
}

// --- Taking back
// ----------------------------------------------------------------------------------

// At the tail of a job, leases that wait for blobs go to idle slots whose worker has these.
void Scheduler::recall_waiting(Time now) {
  for (std::size_t i = 0; i < std::min(waiting_workers_.size(), kGivers); ++i) {
    if (!workers_.has_idle_slot()) return;
    auto giver = waiting_workers_.lower_bound(next_giver_);
    if (giver == waiting_workers_.end()) giver = waiting_workers_.begin();
    next_giver_ = *giver + 1;
    const WorkerRecord& worker = workers_.at(*giver);
    if (worker.recall_until <= now && worker.present) recall_waiting(*giver, now);
  }
}

void Scheduler::recall_waiting(WorkerIndex index, Time now) {
  const WorkerRecord& giver = workers_.at(index);
  std::uint64_t count = giver.idle_leases();
  std::size_t looks = 0;
  message::Recall recall;
  for (auto run = giver.order.rbegin(); run != giver.order.rend() && count > 0; ++run) {
    JobRecord* job = find_job(run->job);
    if (job == nullptr || !job->names_blobs) continue;
    if (!recall.leases.empty() && (recall.job != job->id || recall.session != job->session->id)) {
      break;
    }
    for (std::uint64_t sequence = run->first + run->count; sequence-- > run->first && count > 0;) {
      if (++looks > kLooks) return send_recall(index, std::move(recall), now);
      const TaskRecord* task = job->find(sequence);
      if (!is_open(index, *run, task) || !task->fetches || task->stopping) continue;
      if (job->is_last_chance(*task)) continue;  // it goes where it runs alone, not to its blobs
      if (!lacks_blobs(*job, *task, giver)) continue;
      if (recall.leases.empty()) {
        const Near near = find_near(*job, *task);
        if (near.worker == kNoWorker || near.missing_bytes > 0 || near.level >= kFullLevel) return;
        const WorkerRecord& taker = workers_.at(near.worker);
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

// Whether the lease of a worker that was lost still waited for blobs there.
bool Scheduler::was_waiting(const JobRecord& job, TaskRecord& task, const WorkerRecord& worker) {
  if (!task.fetches || task.lost_waiting >= kMostLostWaiting) return false;
  if (!lacks_blobs(job, task, worker)) return false;
  ++task.lost_waiting;
  ++counters_["leases_lost_waiting"];
  return true;
}

void Scheduler::check_places() const {
  auto& self = const_cast<Scheduler&>(*this);
  std::unordered_map<WorkerIndex, std::uint64_t> fetching;
  std::uint64_t blob_jobs = 0;
  for (const auto& [key, job] : jobs_) {
    bool names = job->spec.function.body.blobs > 0;
    job->each([&, job = job.get()](std::uint64_t, const TaskRecord& task) {
      names = names || (task.data.blobs > 0 && task.state != TaskState::ended);
      if (!task.fetches) return;
      CHECK(task.state == TaskState::leased && job->names_blobs);
      fetching[task.worker] += job->demand == nullptr ? 1 : 0;
    });
    CHECK(job->names_blobs || !names);
    blob_jobs += job->names_blobs ? 1 : 0;
  }
  CHECK(blob_jobs == blob_jobs_);
  std::uint32_t sharing = 0;
  self.workers_.each([&](WorkerIndex index, const WorkerRecord& worker) {
    CHECK(worker.fetching == fetching[index]);
    CHECK(worker.blobs.size() <= kMaxWorkerBlobs && (worker.blobs.empty() || !worker.shares));
    CHECK((waiting_workers_.count(index) != 0) == (worker.waiting > 0));
    sharing += worker.shares ? 1 : 0;
    const auto& members = workers_.classes()[worker.class_index].members;
    CHECK(members.at(worker.class_place) == index);
  });
  CHECK((sharing == workers_.size()) == workers_.all_share());
}

}  // namespace muster
