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
  lease_last_chances(now);
  books_.release_reservation();
  review_classes();
  const std::vector<RoomierClass> roomier = books_.workers().take_roomier();
  do {
    for (const RoomierClass& group : roomier) books_.queue().wake(group.index, group.free_slots);
  } while (lease_to_ready(now) && !roomier.empty());
  recalls_.recall_unstarted(now);
}

void Placement::lease_last_chances(Time now) {
  std::set<JobKey>& keys = books_.last_chance_jobs();
  for (auto key = keys.begin(); key != keys.end();) {
    JobRecord* job = books_.find_job(*key);
    if (job != nullptr) {
      while (job->has_last_chance() && place_last_chance(*job, now)) {
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

// Leases one batch of the job to one worker; false: no worker that was looked at has room.
bool Placement::place(JobRecord& job, Time now) {
  if (job.session->hold_until > now) return false;
  Demand* const demand = job.demand;
  if (demand != nullptr && demand->failed_in_turn == books_.turn()) return false;
  const auto oldest = job.leasable() == 0 ? std::nullopt : job.peek_queued(false);
  if (!oldest) return false;
  const Choice choice = search_.find(job, *job.find(*oldest));
  if (choice.worker == kNoWorker) {
    if (demand != nullptr) note_blocked(*demand, now);
    return false;
  }
  const WorkerRecord& worker = books_.worker(choice.worker);
  const std::uint64_t share =
      policy::share_of(job, worker, books_.workers().classes()[worker.class_index].slots);
  if (!lease_batch(job, choice, std::min<std::uint64_t>(share, choice.room), false, now)) {
    return false;
  }
  if (demand != nullptr) note_placed(*demand, choice.worker, now);
  return true;
}

// The one loop that leases: up to `count` of the job's next tasks to the chosen worker, as long as
// they are as well off there. `last_chance`: those on their last permitted run. False: there was
// none.
bool Placement::lease_batch(JobRecord& job, const Choice& choice, std::uint64_t count,
                            bool last_chance, Time now) {
  WorkerRecord& worker = books_.worker(choice.worker);
  message::Tasks tasks{job.session->id, job.id, {}};
  std::size_t bytes = 0;
  std::uint64_t leased = 0;
  while (leased < count && (leased == 0 || bytes < limits::kBatchBytes)) {
    const bool is_full = worker.load() >= worker.usable_slots();
    const bool looks_first = job.names_blobs && !last_chance;
    if (!looks_first && leased > 0 && worker.lease_bytes >= limits::kMaxPrefetchBytes &&
        policy::room(job, worker, worker.load(), choice.ahead, choice.width) == 0) {
      break;
    }
    const auto sequence = last_chance   ? job.take_last_chance()
                          : looks_first ? job.peek_queued(is_full)
                                        : job.take_queued(is_full);
    if (!sequence) break;
    TaskRecord& task = *job.find(*sequence);
    const bool fetches = job.names_blobs && lacks_blobs(job, task, worker);
    if (looks_first) {
      if (fetches && leased > 0 && choice.missing_bytes == 0) break;  // another may have its blobs
      const std::uint64_t load = fetches ? worker.full_load() : worker.load();
      if (task.suspect && load >= worker.usable_slots()) break;
      if (policy::room(job, worker, load, choice.ahead, choice.width) == 0) break;
      job.take_queued(is_full);
    }
    bytes += task.data.bytes.size();
    const std::uint64_t expected = std::min(count, leased == 0 ? job.queued + 1 : 0);
    lease(job, choice.worker, *sequence, task, {choice.ahead > 0 && !fetches, fetches}, expected,
          tasks);
    ++leased;
  }
  if (leased == 0) return false;
  books_.queue().charge(job, leased * choice.width);
  send_tasks(job, choice.worker, std::move(tasks));
  worker.last_sent = now;
  return true;
}

// No worker that was looked at has room for the demand: after a while one is kept free for it.
void Placement::note_blocked(Demand& demand, Time now) {
  demand.failed_in_turn = books_.turn();
  if (demand.blocked_since == kNever) demand.blocked_since = now;
  if (now - demand.blocked_since >= kReserveAfter) reserve(demand, now);
}

void Placement::note_placed(Demand& demand, WorkerIndex index, Time now) {
  demand.blocked_since = kNever;
  if (books_.reservations().drained() == index) {
    books_.reservations().keep_drained(now + kKeepReserved);
  }
}

// A task that killed its workers before runs with a worker to itself, so that it takes nobody
// along.
bool Placement::place_last_chance(JobRecord& job, Time now) {
  if (job.at_cap()) return false;
  Reservations& reservations = books_.reservations();
  if (reservations.last_chance() != kNoWorker &&
      books_.worker(reservations.last_chance()).leases == 0 &&
      !books_.groups().may_run(job, reservations.last_chance())) {
    reservations.release_last_chance();  // it was another job's, which is gone or comes again
  }
  if (reservations.last_chance() == kNoWorker) {
    const WorkerIndex index = search_.least_loaded(job);
    if (index == kNoWorker) return false;
    reservations.reserve_last_chance(index);
  }
  const WorkerIndex index = reservations.last_chance();
  const WorkerRecord& worker = books_.worker(index);
  if (worker.leases > 0 || !worker.takes_leases() || worker.usable_slots() == 0) return false;
  if (!books_.groups().may_run(job, index) || !job.has_last_chance()) return false;
  Choice choice;
  choice.worker = index;
  lease_batch(job, choice, 1, true, now);
  books_.set_runnable(job);
  return true;
}

// `expected`: about how many tasks the message will hold.
void Placement::lease(JobRecord& job, WorkerIndex index, std::uint64_t sequence, TaskRecord& task,
                      Books::LeaseHint hint, std::uint64_t expected, message::Tasks& tasks) {
  const Attempt attempt = books_.lease(job, index, sequence, task, hint);
  if (tasks.runs.empty() || tasks.runs.back().attempt != attempt ||
      value(tasks.runs.back().first) + tasks.runs.back().payloads.size() != sequence) {
    tasks.runs.push_back({TaskSequence{sequence}, attempt, {}});
    if (tasks.runs.size() == 1) tasks.runs[0].payloads.reserve(expected);
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
