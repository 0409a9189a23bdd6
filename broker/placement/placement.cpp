#include "broker/placement/placement.hpp"

#include <algorithm>
#include <utility>

#include "broker/placement/policy.hpp"

namespace muster {
namespace {

// Jobs that are looked at behind one that cannot be placed, while no slot is idle.
constexpr std::size_t kBlockedJobs = 16;
// A task that found no room for so long gets a worker to itself, which takes no other leases
// until the task fits.
constexpr Duration kReserveAfter = std::chrono::milliseconds(500);
// Other tasks of the demand use that worker as well, so that a job of many wide tasks does not
// wait anew for each.
constexpr Duration kKeepReserved = std::chrono::seconds(2);

}  // namespace

void Placement::dispatch(Time now) {
  lease_last_chances();
  books_.release_reservation();
  review_classes();
  const std::vector<std::uint32_t> roomier = books_.workers().take_roomier();
  do {
    for (const std::uint32_t index : roomier) books_.queue().wake(index);
  } while (lease_to_ready(now) && !roomier.empty());
  recalls_.recall_unstarted(now);
}

void Placement::lease_last_chances() {
  std::set<JobKey>& keys = books_.last_chance_jobs();
  for (auto key = keys.begin(); key != keys.end();) {
    JobRecord* job = books_.find_job(*key);
    if (job != nullptr) {
      while (job->has_last_chance() && place_last_chance(*job)) {
      }
    }
    const bool done = job == nullptr || !job->has_last_chance() ||
                      job->at_cap();  // it comes back when a lease ends
    key = done ? keys.erase(key) : std::next(key);
  }
}

// Leases to those that may find room; who finds none waits. False: nobody found any.
bool Placement::lease_to_ready(Time now) {
  bool leased = false;
  std::size_t blocked = 0;
  while (!books_.queue().empty()) {
    JobRecord& job = books_.queue().first();
    if (place(job, now)) {
      books_.queue().erase(job);
      RunQueue::pass(job);
      job.runnable = false;
      books_.set_runnable(job);
      leased = true;
      continue;
    }
    const bool is_held = job.session->hold_until > now;
    const std::vector<std::uint32_t>& classes = books_.groups().eligible_classes(job);
    static const std::vector<std::uint32_t> kNone;
    books_.queue().park(job, books_.groups().wait_group(job, is_held), is_held ? kNone : classes,
                        books_.workers().generation());
    if (++blocked >= kBlockedJobs && !books_.workers().has_idle_slot()) break;
  }
  return leased;
}

// Other workers are here than before: a job that waits may have waited for these.
void Placement::review_classes() {
  if (std::exchange(classes_seen_, books_.workers().generation()) == books_.workers().generation())
    return;
  books_.queue().forget_classes();
  books_.groups().each_group([&](WaitGroup& group) { books_.queue().wake_all(group); });
}

void Placement::review(Time now) {
  review_drained(now);
  books_.groups().each_group([&](WaitGroup& group) { books_.queue().wake_some(group); });
  if (now >= books_.started() + books_.options().resume_wait) {
    books_.queue().wake_all(books_.groups().held());
  }
}

// Leases one batch of the job to one worker; false: no worker has room.
bool Placement::place(JobRecord& job, Time now) {
  if (job.session->hold_until > now) return false;
  if (job.demand != nullptr) return place_demanding(job, now);
  if (job.names_blobs && !books_.workers().all_share()) return place_near(job, now);
  const WorkerIndex index = search_.best_worker(job);
  if (index == kNoWorker) return false;
  WorkerRecord& worker = books_.worker(index);
  const std::uint64_t count =
      std::min<std::uint64_t>(policy::room(job, worker, worker.load()), share_of(job, worker));
  if (count == 0) return false;
  message::Tasks tasks{job.session->id, job.id, {}};
  std::size_t bytes = 0;
  std::uint64_t leased = 0;
  const bool is_short = policy::prefetch(job, worker) > 0;
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
  books_.queue().charge(job, leased);
  send_tasks(job, index, std::move(tasks));
  worker.last_sent = now;
  return true;
}

// Leases one batch of a job that names blobs to the worker where its next task is best off, with
// those behind it that are as well off there; false: no worker that was looked at has room.
bool Placement::place_near(JobRecord& job, Time now) {
  const auto oldest = job.leasable() == 0 ? std::nullopt : job.peek_queued(false);
  if (!oldest) return false;
  const Search::Near near = search_.find_near(job, *job.find(*oldest));
  if (near.worker == kNoWorker) return false;
  WorkerRecord& worker = books_.worker(near.worker);
  const std::uint64_t share = share_of(job, worker);
  const bool is_short = policy::prefetch(job, worker) > 0;
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
    if (policy::room(job, worker, load) == 0 || (task.suspect && load >= worker.usable_slots()))
      break;
    job.take_queued(worker.load() >= worker.usable_slots());
    bytes += task.data.bytes.size();
    const std::uint64_t expected = std::min(share, job.queued + 1);
    lease(job, near.worker, *sequence, {expected, is_short && !fetches, fetches}, tasks);
    ++leased;
  }
  if (leased == 0) return false;
  books_.queue().charge(job, leased);
  send_tasks(job, near.worker, std::move(tasks));
  worker.last_sent = now;
  return true;
}

// Leases tasks of the job to one worker that can start them now; false: none can.
bool Placement::place_demanding(JobRecord& job, Time now) {
  Demand& demand = *job.demand;
  const std::uint64_t leasable = job.leasable();
  if (leasable == 0 || !job.has_queued() || demand.failed_in_turn == books_.turn()) return false;
  if (books_.reservations().is_drained_for(demand)) {  // it is looked at first
    const auto own =
        std::find_if(demand.candidates.begin(), demand.candidates.end(),
                     [&](auto& entry) { return entry.worker == books_.reservations().drained(); });
    demand.cursor = static_cast<std::size_t>(own - demand.candidates.begin());
  }
  const auto oldest = job.peek_queued(false);
  const Demand::Candidate* found = oldest ? search_.find_room(job, *job.find(*oldest)) : nullptr;
  if (found == nullptr) {
    demand.failed_in_turn = books_.turn();
    if (demand.blocked_since == kNever) demand.blocked_since = now;
    if (now - demand.blocked_since >= kReserveAfter) reserve(demand, now);
    return false;
  }
  const Demand::Candidate candidate = *found;
  const WorkerRecord& worker = books_.worker(candidate.worker);
  const std::uint64_t share =
      std::clamp<std::uint64_t>(leasable / demand.candidates.size(), 1, limits::kBatchTasks);
  message::Tasks tasks{job.session->id, job.id, {}};
  std::size_t bytes = 0;
  std::uint64_t leased = 0;
  while (leased < share && (leased == 0 || bytes < limits::kBatchBytes)) {
    const auto sequence = job.peek_queued(false);
    if (!sequence) break;
    const bool fetches = missing_bytes(job, *job.find(*sequence), worker) > 0;
    if (!search_.has_room(demand, candidate, fetches ? worker.full_load() : worker.load())) break;
    job.take_queued(false);
    bytes += job.find(*sequence)->data.bytes.size();
    lease(job, candidate.worker, *sequence, {1, false, fetches}, tasks);
    ++leased;
  }
  if (leased == 0) return false;
  demand.blocked_since = kNever;
  if (books_.reservations().drained() == candidate.worker) {
    books_.reservations().keep_drained(now + kKeepReserved);
  }
  books_.queue().charge(job, leased * candidate.width);
  send_tasks(job, candidate.worker, std::move(tasks));
  books_.worker(candidate.worker).last_sent = now;
  return true;
}

// A task that killed its workers before runs with a worker to itself, so that it takes nobody
// along.
bool Placement::place_last_chance(JobRecord& job) {
  if (job.at_cap()) return false;
  if (books_.reservations().last_chance() != kNoWorker &&
      books_.worker(books_.reservations().last_chance()).leases == 0 &&
      !books_.groups().may_run(job, books_.reservations().last_chance())) {
    books_.reservations()
        .release_last_chance();  // it was another job's, which is gone or comes again
  }
  if (books_.reservations().last_chance() == kNoWorker) {
    const WorkerIndex index =
        job.demand == nullptr ? search_.best_worker(job) : search_.least_loaded(*job.demand);
    if (index == kNoWorker) return false;
    books_.reservations().reserve_last_chance(index);
  }
  WorkerRecord& worker = books_.worker(books_.reservations().last_chance());
  if (worker.leases > 0 || !worker.takes_leases() || worker.usable_slots() == 0) return false;
  if (!books_.groups().may_run(job, books_.reservations().last_chance())) return false;
  const auto sequence = job.take_last_chance();
  if (!sequence) return false;
  message::Tasks tasks{job.session->id, job.id, {}};
  lease(job, books_.reservations().last_chance(), *sequence,
        {1, false, lacks_blobs(job, *job.find(*sequence), worker)}, tasks);
  send_tasks(job, books_.reservations().last_chance(), std::move(tasks));
  books_.set_runnable(job);
  return true;
}

std::uint64_t Placement::share_of(const JobRecord& job, const WorkerRecord& worker) const {
  return policy::share_of(job, worker, books_.workers().classes()[worker.class_index].slots);
}

void Placement::lease(JobRecord& job, WorkerIndex index, std::uint64_t sequence, LeaseHint hint,
                      message::Tasks& tasks) {
  TaskRecord& task = *job.find(sequence);
  const Attempt attempt = books_.lease(job, index, sequence, task, {hint.is_short, hint.fetches});
  if (tasks.runs.empty() || tasks.runs.back().attempt != attempt ||
      value(tasks.runs.back().first) + tasks.runs.back().payloads.size() != sequence) {
    tasks.runs.push_back({TaskSequence{sequence}, attempt, {}});
    if (tasks.runs.size() == 1) tasks.runs[0].payloads.reserve(hint.expected);
  }
  tasks.runs.back().payloads.push_back(task.data);
}

void Placement::send_tasks(JobRecord& job, WorkerIndex index, message::Tasks&& tasks) {
  if (job.told.insert(index)) {
    message::WorkerJob told{job.session->id, job.id, job.spec};
    if (books_.options().credit_blob_bytes == 0)
      told.spec.inline_results = true;  // we keep no blobs
    out_.send(books_.worker(index), std::move(told));
  }
  out_.send(books_.worker(index), std::move(tasks));
  books_.worker(index).told_in_turn = books_.turn();
  books_.workers().update_level(index);
}

// Keeps the worker that lacks least from getting other leases. One at a time: slots idle for it.
void Placement::reserve(Demand& demand, Time now) {
  if (books_.reservations().drained() != kNoWorker || demand.candidates.empty()) return;
  const auto lacking = [&](const Demand::Candidate& candidate) {
    const WorkerRecord& worker = books_.worker(candidate.worker);
    const std::uint64_t gpus = worker.gpus_taken + demand.wanted.gpus;
    const std::uint64_t slots = worker.load() + candidate.width;
    return std::pair(gpus > worker.hello.gpus,
                     slots - std::min<std::uint64_t>(slots, worker.usable_slots()));
  };
  const Demand::Candidate* best = nullptr;
  for (std::size_t i = 0; i < std::min(demand.candidates.size(), kLooks); ++i) {
    const auto& candidate = demand.candidates[(demand.cursor + i) % demand.candidates.size()];
    const WorkerRecord& worker = books_.worker(candidate.worker);
    if (books_.workers().level(candidate.worker) < 0 || candidate.width > worker.usable_slots())
      continue;
    if (best == nullptr || lacking(candidate) < lacking(*best)) best = &candidate;
  }
  if (best == nullptr) return;
  books_.reservations().drain(best->worker, demand);
  WorkerRecord& worker = books_.worker(best->worker);
  books_.count("workers_reserved");
  if (worker.load() > worker.usable_slots()) {
    recalls_.recall_from(best->worker, kNoWorker,
                         static_cast<std::uint32_t>(worker.load() - worker.usable_slots()), now);
  }
}

// Nobody needs it any more, or others are to have their turn.
void Placement::review_drained(Time now) {
  if (books_.reservations().drained() == kNoWorker) return;
  const WorkerRecord& worker = books_.worker(books_.reservations().drained());
  const auto wants_it = [&](const JobRecord& job) {
    return job.demand == books_.reservations().demand() && job.has_queued();
  };
  const bool wanted =
      books_.reservations().demand()->waiting.any_of(wants_it) || books_.queue().any_of(wants_it);
  if (!wanted || !worker.takes_leases() || books_.reservations().is_over(now))
    books_.reservations().release_drained();
}

}  // namespace muster
