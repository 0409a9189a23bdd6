// Leasing: which task goes to which worker, how many ahead, and taking leases back at the tail.
#include <algorithm>
#include <cmath>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"
#include "common/protocol/resources.hpp"

namespace muster {
namespace {

// Of one session, not acknowledged: as much as a fast link carries in a round trip, many times.
constexpr std::uint64_t kMostOutcomeBytes = std::uint64_t{128} << 20;

// Time a worker's leases must cover beyond its slots: two round trips, so that new leases arrive
// before the old ones are used up, and the time that both sides take to form batches: outcomes wait
// up to 3 ms for each other at the worker, and a busy machine delays every loop by as much again.
constexpr Duration kBatchingSlack = std::chrono::milliseconds(8);
// Prefetch pays only when the round trip is more than this part of the task's duration.
constexpr double kNegligibleGap = 0.01;
// Jobs that are looked at behind one that cannot be placed, while no slot is idle.
constexpr std::size_t kBlockedJobs = 16;
// Closed leases that may stay in a worker's order before it is compacted.
constexpr std::size_t kOrderSlack = 256;
// A recall is worth its messages when it brings a task forward by this much.
constexpr Duration kRecallGain = std::chrono::milliseconds(2);

}  // namespace

// A producer that does not acknowledge its outcomes gets no more of them.
bool Scheduler::takes_outcomes(const SessionRecord& session) const {
  return session.outcome_bytes <= std::min(session.credit.bytes, kMostOutcomeBytes) &&
         session.outcomes_held <= session.credit.tasks;
}

bool Scheduler::wants_leases(const JobRecord& job) const {
  return job.has_queued() && !job.at_cap() && takes_outcomes(*job.session);
}

// Call after any change of what wants_leases() looks at. A job at its cap so steps out of the queue
// until one of its leases ends.
void Scheduler::set_runnable(JobRecord& job) {
  const bool wanted = wants_leases(job);
  if (wanted && job.runnable) return run_queue_.unpark(job);
  if (wanted == job.runnable) return;
  job.runnable = wanted;
  if (wanted) {
    run_queue_.join(job);
  } else {
    run_queue_.erase(job);
  }
}

void Scheduler::dispatch(Time now) {
  for (auto key = last_chance_jobs_.begin(); key != last_chance_jobs_.end();) {
    const auto found = jobs_.find(*key);
    if (found != jobs_.end()) {
      while (found->second->has_last_chance() && place_last_chance(*found->second)) {
      }
    }
    const bool done = found == jobs_.end() || !found->second->has_last_chance() ||
                      found->second->at_cap();  // it comes back when a lease ends
    key = done ? last_chance_jobs_.erase(key) : std::next(key);
  }
  release_reservation();
  review_classes();
  const std::vector<std::uint32_t> roomier = workers_.take_roomier();
  do {
    for (const std::uint32_t index : roomier) run_queue_.wake(index);
  } while (lease_to_ready(now) && !roomier.empty());
  recall_unstarted(now);
}

// Leases to those that may find room; who finds none waits. False: nobody found any.
bool Scheduler::lease_to_ready(Time now) {
  bool leased = false;
  std::size_t blocked = 0;
  while (!run_queue_.empty()) {
    JobRecord& job = run_queue_.first();
    if (place(job, now)) {
      run_queue_.erase(job);
      RunQueue::pass(job);
      job.runnable = false;
      set_runnable(job);
      leased = true;
      continue;
    }
    const bool is_held = job.session->hold_until > now;
    const std::vector<std::uint32_t>& classes = eligible_classes(job);
    run_queue_.park(job, wait_group(job, is_held), is_held ? std::vector<std::uint32_t>() : classes,
                    workers_.generation());
    if (++blocked >= kBlockedJobs && !workers_.has_idle_slot()) break;
  }
  return leased;
}

WaitGroup& Scheduler::wait_group(JobRecord& job, bool is_held) {
  if (is_held) return held_jobs_;
  if (job.demand != nullptr) return job.demand->waiting;
  return job.names_blobs && !workers_.all_share() ? job.classes->near : job.classes->plain;
}

// Other workers are here than before: whoever waits may have waited for these.
void Scheduler::review_classes() {
  if (std::exchange(classes_seen_, workers_.generation()) == workers_.generation()) return;
  run_queue_.forget_classes();
  each_group([&](WaitGroup& group) { run_queue_.wake_all(group); });
}

// What nobody notices when it happens (a round trip that was learned, time that passed) makes a
// difference at the next tick.
void Scheduler::review_waiting(Time now) {
  each_group([&](WaitGroup& group) { run_queue_.wake_some(group); });
  if (now >= started_ + options_.resume_wait) run_queue_.wake_all(held_jobs_);
}

Scheduler::ClassKey Scheduler::class_key(const JobSpec& spec) {
  const Function& function = spec.function;
  std::string decides;
  if (function.kind == FunctionKind::native) decides = function.name;
  if (function.kind == FunctionKind::python) decides = function.python;
  const bool is_shipped = function.kind == FunctionKind::native && !function.body.bytes.empty();
  if (is_shipped) decides.clear();
  return {function.kind, is_shipped, std::move(decides), spec.labels};
}

const std::vector<std::uint32_t>& Scheduler::eligible_classes(JobRecord& job) {
  if (job.classes == nullptr) {
    job.classes = &class_cache_[class_key(job.spec)];
    ++job.classes->jobs;
  }
  ClassCache& cache = *job.classes;
  if (cache.generation != workers_.generation()) {
    cache.generation = workers_.generation();
    cache.classes.clear();
    const auto& classes = workers_.classes();
    for (std::uint32_t i = 0; i < classes.size(); ++i) {
      if (classes[i].offers(job.spec)) cache.classes.push_back(i);
    }
  }
  return cache.classes;
}

void Scheduler::drop_classes(JobRecord& job) {
  ClassCache* cache = std::exchange(job.classes, nullptr);
  if (cache == nullptr || --cache->jobs > 0) return;
  run_queue_.remove(cache->plain);
  run_queue_.remove(cache->near);
  class_cache_.erase(class_key(job.spec));
}

// Whether its tasks can run there at all, however busy the worker is.
bool Scheduler::may_run(JobRecord& job, WorkerIndex index) {
  const WorkerRecord& worker = workers_.at(index);
  const auto& classes = eligible_classes(job);
  return std::find(classes.begin(), classes.end(), worker.class_index) != classes.end() &&
         fits(job.spec.resources, shape_of(worker.hello));
}

WorkerIndex Scheduler::best_worker(JobRecord& job) {
  WorkerIndex best = kNoWorker;
  for (const std::uint32_t index : eligible_classes(job)) {
    const WorkerIndex candidate = workers_.least_loaded(index);
    if (candidate == kNoWorker) continue;
    if (best == kNoWorker || workers_.level(candidate) < workers_.level(best)) {
      best = candidate;
    }
  }
  return best;
}

// How many leases of the job the worker may hold beyond its slots; 0: its tasks are long.
std::uint32_t Scheduler::prefetch(const JobRecord& job, const WorkerRecord& worker) const {
  if (job.mean_duration == Duration(0)) return 0;
  const double horizon = static_cast<double>((2 * worker.round_trip + kBatchingSlack).count());
  const double ratio = horizon / static_cast<double>(job.mean_duration.count());
  if (ratio <= kNegligibleGap) return 0;
  const double ahead = std::ceil(static_cast<double>(worker.usable_slots()) * ratio);
  return static_cast<std::uint32_t>(std::min(ahead, double{limits::kMaxPrefetch}));
}

// How many more leases of the job the worker may have. A long task may queue behind short ones,
// which are done in a moment, but never behind another long one. `load`: the worker's, as a task
// sees it.
std::uint32_t Scheduler::room(const JobRecord& job, const WorkerRecord& worker,
                              std::uint64_t load) const {
  const std::uint32_t usable = worker.usable_slots();
  const std::uint32_t ahead = prefetch(job, worker);
  const std::uint64_t taken = ahead == 0 ? load - worker.short_leases : load;
  const bool full = worker.lease_bytes >= limits::kMaxPrefetchBytes;
  const std::uint32_t target = full ? usable : usable + ahead;
  return target > taken ? target - static_cast<std::uint32_t>(taken) : 0;
}

// Leases one batch of the job to one worker; false: no worker has room.
bool Scheduler::place(JobRecord& job, Time now) {
  if (job.session->hold_until > now) return false;
  if (job.demand != nullptr) return place_demanding(job, now);
  if (job.names_blobs && !workers_.all_share()) return place_near(job, now);
  const WorkerIndex index = best_worker(job);
  if (index == kNoWorker) return false;
  WorkerRecord& worker = workers_.at(index);
  const std::uint64_t count =
      std::min<std::uint64_t>(room(job, worker, worker.load()), share_of(job, worker));
  if (count == 0) return false;
  message::Tasks tasks{job.session->id, job.id, {}};
  std::size_t bytes = 0;
  std::uint64_t leased = 0;
  const bool is_short = prefetch(job, worker) > 0;
  while (leased < count && (leased == 0 || bytes < limits::kBatchBytes)) {
    const bool fresh_only = worker.load() >= worker.usable_slots();
    const auto sequence = job.take_queued(fresh_only);
    if (!sequence) break;
    bytes += job.find(*sequence)->data.bytes.size();
    lease(job, index, *sequence, {std::min(count, job.queued + 1), is_short}, tasks);
    ++leased;
    if (worker.load() >= worker.usable_slots() && worker.lease_bytes >= limits::kMaxPrefetchBytes) {
      break;
    }
  }
  if (leased == 0) return false;
  run_queue_.charge(job, leased);
  send_tasks(job, index, std::move(tasks));
  worker.last_sent = now;
  return true;
}

// An even share of what may be leased, so that no worker takes the tail of a job alone.
std::uint64_t Scheduler::share_of(const JobRecord& job, const WorkerRecord& worker) const {
  const std::uint64_t leasable = job.leasable();
  const WorkerClass& group = workers_.classes()[worker.class_index];
  const std::uint64_t share =
      leasable * worker.hello.slots / std::max<std::uint64_t>(group.slots, 1);
  return std::min({leasable, std::max<std::uint64_t>(share, 1), limits::kBatchTasks});
}

void Scheduler::lease(JobRecord& job, WorkerIndex index, std::uint64_t sequence, LeaseHint hint,
                      message::Tasks& tasks) {
  WorkerRecord& worker = workers_.at(index);
  TaskRecord& task = *job.find(sequence);
  task.state = TaskState::leased;
  task.worker = index;
  task.stopping = false;
  task.out_of_sight = false;
  const Attempt attempt{task.attempts_made++};
  ++job.leased;
  job.starves = false;
  ++worker.leases;
  task.is_short = hint.is_short;
  worker.short_leases += hint.is_short ? 1 : 0;
  if (hint.fetches) flag_fetching(job, task, worker, true);
  worker.lease_bytes += task.data.bytes.size();
  if (job.demand != nullptr) charge(job, worker);
  worker.append_lease(job.key, sequence, attempt);
  if (tasks.runs.empty() || tasks.runs.back().attempt != attempt ||
      value(tasks.runs.back().first) + tasks.runs.back().payloads.size() != sequence) {
    tasks.runs.push_back({TaskSequence{sequence}, attempt, {}});
    if (tasks.runs.size() == 1) tasks.runs[0].payloads.reserve(hint.expected);
  }
  tasks.runs.back().payloads.push_back(task.data);
}

void Scheduler::send_tasks(JobRecord& job, WorkerIndex index, message::Tasks&& tasks) {
  if (job.told.insert(index)) {
    message::WorkerJob told{job.session->id, job.id, job.spec};
    if (options_.credit_blob_bytes == 0) told.spec.inline_results = true;  // we keep no blobs
    send_worker(index, std::move(told));
  }
  send_worker(index, std::move(tasks));
  workers_.at(index).told_in_turn = turn_;
  workers_.update_level(index);
}

// The lease is over: the worker's books, not the task's fate. Call settle() after the last of a
// message.
void Scheduler::close_lease(JobRecord& job, TaskRecord& task) {
  WorkerRecord& worker = workers_.at(task.worker);
  --job.leased;
  --worker.leases;
  worker.short_leases -= std::exchange(task.is_short, false) ? 1 : 0;
  if (task.fetches) flag_fetching(job, task, worker, false);
  worker.lease_bytes -= task.data.bytes.size();
  if (job.demand != nullptr) refund(job, worker);
  task.worker = kNoWorker;
  if (job.lease_limit() != UINT64_MAX) review_limit(job);
}

JobRecord* Scheduler::find_job(JobKey key) {
  const auto found = jobs_.find(key);
  return found == jobs_.end() ? nullptr : found->second.get();
}

// Whether `task`, a part of the run or null, is still leased as the run says.
bool Scheduler::is_open(WorkerIndex index, const LeaseRun& run, const TaskRecord* task) const {
  return task != nullptr && task->state == TaskState::leased && task->worker == index &&
         task->current_attempt() == run.attempt;
}

// Drops closed leases from the worker's order: those at the front now, those behind an open one
// once they pile up, as behind a long task. Puts the worker on its new level.
void Scheduler::settle(WorkerIndex index) {
  WorkerRecord& worker = workers_.at(index);
  // Drops the closed leases at the run's front; true when none is left.
  const auto drop_closed = [&](LeaseRun& run) {
    JobRecord* job = find_job(run.job);
    if (job == nullptr) return true;
    for (; run.count > 0 && !is_open(index, run, job->find(run.first)); --run.count) ++run.first;
    return run.count == 0;
  };
  while (!worker.order.empty() && drop_closed(worker.order.front())) worker.order.pop_front();
  if (worker.order.size() > 2 * std::size_t{worker.leases} + kOrderSlack) {
    std::erase_if(worker.order, drop_closed);
  }
  if (blob_jobs_ > 0) workers_.look_at_next(index);
  workers_.note_room(index);
  workers_.update_level(index);
}

// A task that killed its workers before runs with a worker to itself, so that it takes nobody
// along.
bool Scheduler::place_last_chance(JobRecord& job) {
  if (job.at_cap()) return false;
  if (reserved_worker_ != kNoWorker && workers_.at(reserved_worker_).leases == 0 &&
      !may_run(job, reserved_worker_)) {
    unreserve_last_chance_worker();  // it was another job's, which is gone or comes again
  }
  if (reserved_worker_ == kNoWorker) {
    const WorkerIndex index = job.demand == nullptr ? best_worker(job) : least_loaded(*job.demand);
    if (index == kNoWorker) return false;
    reserved_worker_ = index;
    workers_.at(index).reserved = true;
    workers_.update_level(index);
  }
  WorkerRecord& worker = workers_.at(reserved_worker_);
  if (worker.leases > 0 || !worker.takes_leases() || worker.usable_slots() == 0) return false;
  if (!may_run(job, reserved_worker_)) return false;
  const auto sequence = job.take_last_chance();
  if (!sequence) return false;
  message::Tasks tasks{job.session->id, job.id, {}};
  lease(job, reserved_worker_, *sequence,
        {1, false, lacks_blobs(job, *job.find(*sequence), worker)}, tasks);
  send_tasks(job, reserved_worker_, std::move(tasks));
  set_runnable(job);
  return true;
}

// The reserved worker serves everybody again once no task needs it.
void Scheduler::release_reservation() {
  if (reserved_worker_ == kNoWorker) return;
  if (workers_.at(reserved_worker_).leases > 0 || !last_chance_jobs_.empty()) return;
  unreserve_last_chance_worker();
}

void Scheduler::unreserve_last_chance_worker() {
  workers_.at(reserved_worker_).reserved = false;
  workers_.update_level(reserved_worker_);
  reserved_worker_ = kNoWorker;
}

// At the tail of a job, idle slots take over leases that have not started elsewhere.
void Scheduler::recall_unstarted(Time now) {
  const bool all_have_leases = run_queue_.empty() && run_queue_.waiting() == 0;
  if (!all_have_leases && !workers_.has_idle_slot()) return;
  recall_waiting(now);
  for (std::uint32_t index = 0; index < workers_.classes().size(); ++index) {
    const WorkerIndex idle = workers_.least_loaded(index);
    const WorkerIndex loaded = workers_.most_loaded(index);
    if (idle == kNoWorker || idle == loaded) continue;
    const WorkerRecord& taker = workers_.at(idle);
    const WorkerRecord& giver = workers_.at(loaded);
    if (workers_.level(idle) >= kFullLevel || workers_.level(loaded) <= kFullLevel ||
        giver.recall_until > now)
      continue;
    const std::uint64_t waiting = giver.load() - giver.usable_slots();
    const std::uint64_t idle_slots = taker.usable_slots() - taker.load();
    const std::uint64_t count = std::min(waiting, std::max(idle_slots, waiting / 2));
    recall_from(loaded, idle, static_cast<std::uint32_t>(count), now);
  }
}

// Takes the newest leases of one job from a worker. `taker`: for whom, if that is known: it then
// must have their blobs, or the time that they would wait must be worth fetching these.
void Scheduler::recall_from(WorkerIndex index, WorkerIndex taker, std::uint32_t count, Time now) {
  WorkerRecord& worker = workers_.at(index);
  const std::uint32_t total = count;
  message::Recall recall;
  for (auto run = worker.order.rbegin(); run != worker.order.rend() && count > 0; ++run) {
    JobRecord* job = find_job(run->job);
    if (job == nullptr) continue;
    if (!recall.leases.empty() && (recall.job != job->id || recall.session != job->session->id)) {
      break;
    }
    for (std::uint64_t sequence = run->first + run->count; sequence-- > run->first && count > 0;) {
      const TaskRecord* task = job->find(sequence);
      if (!is_open(index, *run, task) || task->stopping) continue;
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

void Scheduler::send_recall(WorkerIndex index, message::Recall&& recall, Time now) {
  if (recall.leases.empty()) return;
  WorkerRecord& worker = workers_.at(index);
  ++counters_["recalls"];
  worker.recall_until = now + 4 * worker.round_trip + std::chrono::milliseconds(20);
  send_worker(index, std::move(recall));
}

}  // namespace muster
