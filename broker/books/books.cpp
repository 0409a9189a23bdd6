#include "broker/books/books.hpp"

#include <algorithm>
#include <utility>

#include "broker/books/audit.hpp"
#include "common/check.hpp"
#include "common/protocol/resources.hpp"

namespace muster {
namespace {

// Of one session, not acknowledged: as much as a fast link carries in a round trip, many times.
constexpr std::uint64_t kMostOutcomeBytes = std::uint64_t{128} << 20;
// Closed leases that may stay in a worker's order before it is compacted.
constexpr std::size_t kOrderSlack = 256;

}  // namespace

Books::Books(SchedulerOptions options, Time now) : options_(std::move(options)), started_(now) {}

std::uint64_t early_bytes_of(const Outcome& outcome) {
  return outcome.body.bytes.size() + kEarlyOverhead;
}

std::uint64_t Books::counter(const std::string& name) const {
  const auto found = counters_.find(name);
  return found == counters_.end() ? 0 : found->second;
}

void Books::check_invariants() const { audit(*this); }

// --- Sessions and their users -------------------------------------------------------------------

SessionRecord& Books::meet_session(const SessionId& id) {
  auto& session = sessions_[id];
  if (!session) {
    session = std::make_unique<SessionRecord>();
    session->id = id;
  }
  return *session;
}

SessionRecord* Books::find_session(const SessionId& id) const {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second.get();
}

void Books::join_user(SessionRecord& session, const LocalUser& local) {
  if (session.user != nullptr) return;
  UserRecord& user = users_.join(local);
  session.user = &user;
  session.number = ++last_session_;
  user.jobs_held += session.jobs.size();
  grant(session);
}

bool Books::grant(SessionRecord& session) {
  Credit& granted = session.user->granted;
  const Credit before = session.credit;
  session.credit =
      fair_credit(*session.user, before, {options_.credit_tasks, options_.credit_bytes});
  granted.tasks += session.credit.tasks - before.tasks;
  granted.bytes += session.credit.bytes - before.bytes;
  return session.credit != before;
}

std::vector<SessionRecord*> Books::leave_user(SessionRecord& session) {
  std::vector<SessionRecord*> richer;
  if (session.user == nullptr) return richer;
  UserRecord& user = *std::exchange(session.user, nullptr);
  user.granted.tasks -= session.credit.tasks;
  user.granted.bytes -= session.credit.bytes;
  const bool has_others = user.sessions > 1;
  const bool is_member = user.who.is_member;
  users_.leave(user);
  if (!has_others || !is_member) return richer;
  for (auto& [id, other] : sessions_) {
    if (other->user != &user || !grant(*other)) continue;
    for (auto& [job_id, job] : other->jobs) set_runnable(*job);
    richer.push_back(other.get());
  }
  return richer;
}

// --- Jobs ---------------------------------------------------------------------------------------

JobRecord* Books::find_job(JobKey key) const {
  const auto found = jobs_.find(key);
  return found == jobs_.end() ? nullptr : found->second.get();
}

JobRecord* Books::find_job(SessionRecord& session, JobId id) const {
  const auto found = session.jobs.find(value(id));
  return found == session.jobs.end() ? nullptr : found->second;
}

JobRecord* Books::find_job(const SessionId& session, JobId id) const {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : find_job(*found->second, id);
}

JobRecord& Books::make_job(SessionRecord& session, JobId id) {
  const JobKey key{++last_key_};
  auto job = std::make_unique<JobRecord>(session, id, key);
  session.jobs[value(id)] = job.get();
  if (session.user != nullptr) ++session.user->jobs_held;
  return *(jobs_[key] = std::move(job));
}

void Books::declare(JobRecord& job, JobSpec&& spec) {
  job.spec = std::move(spec);
  job.declared = true;
  groups_.add(job);
  if (job.spec.function.body.blobs > 0) note_blobs(job);
}

void Books::close_job(JobRecord& job) {
  SessionRecord& session = *job.session;
  job.each([&](std::uint64_t, TaskRecord& task) {
    if (task.state == TaskState::acknowledged) return;
    if (task.state == TaskState::leased) {
      job.told.insert(task.worker);
      close_lease(job, task);
    }
    const bool ended = task.state == TaskState::ended;
    --(ended ? session.outcomes_held : session.open_tasks);
    (ended ? session.outcome_bytes : session.payload_bytes) -= task.data.bytes.size();
  });
  session.skipped_records -= job.skipped_records();
}

void Books::remove_job(JobRecord& job) {
  if (job.runnable) run_queue_.erase(job);
  last_chance_jobs_.erase(job.key);
  reservations_.forget(groups_.remove(job));
  blob_jobs_ -= job.names_blobs ? 1 : 0;
  job.session->jobs.erase(value(job.id));
  if (job.session->user != nullptr) --job.session->user->jobs_held;
  jobs_.erase(JobKey(job.key));
}

void Books::note_blobs(JobRecord& job) {
  blob_jobs_ += std::exchange(job.names_blobs, true) ? 0 : 1;
}

// --- Tasks --------------------------------------------------------------------------------------

TaskRecord& Books::accept_task(JobRecord& job, std::uint64_t sequence, Payload&& payload) {
  TaskRecord& task = job.append(sequence, std::move(payload));
  ++job.session->open_tasks;
  job.session->payload_bytes += task.data.bytes.size();
  if (task.data.blobs > 0) note_blobs(job);
  return task;
}

void Books::end(JobRecord& job, TaskRecord& task, Outcome&& outcome) {
  SessionRecord& session = *job.session;
  --session.open_tasks;
  ++session.outcomes_held;
  session.payload_bytes -= task.data.bytes.size();
  session.outcome_bytes += outcome.body.bytes.size();
  job.outcome_bytes += outcome.body.bytes.size();
  task.state = TaskState::ended;
  task.status = outcome.status;
  task.data = std::move(outcome.body);
  ++(outcome.status == OutcomeStatus::result ? job.done : job.failed);
}

void Books::acknowledge(JobRecord& job, TaskRecord& task) {
  SessionRecord& session = *job.session;
  task.state = TaskState::acknowledged;
  session.outcome_bytes -= task.data.bytes.size();
  job.outcome_bytes -= task.data.bytes.size();
  --session.outcomes_held;
  task.data = {};
}

void Books::requeue(JobRecord& job, std::uint64_t sequence, TaskRecord& task) {
  job.requeue(sequence, task);
  set_runnable(job);
  if (job.has_last_chance()) last_chance_jobs_.insert(job.key);
}

// --- Leases -------------------------------------------------------------------------------------

Attempt Books::lease(JobRecord& job, WorkerIndex index, std::uint64_t sequence, TaskRecord& task,
                     LeaseHint hint) {
  WorkerRecord& worker = workers_.at(index);
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
  return attempt;
}

void Books::adopt(JobRecord& job, WorkerIndex index, std::uint64_t sequence, TaskRecord& task,
                  Attempt attempt) {
  WorkerRecord& worker = workers_.at(index);
  task.state = TaskState::leased;
  task.worker = index;
  task.attempts_made = value(attempt) + 1;
  ++job.leased;
  ++worker.leases;
  worker.lease_bytes += task.data.bytes.size();
  if (job.demand != nullptr) charge(job, worker);
  // Nobody knows any more whether it had the blobs.
  flag_fetching(job, task, worker, lacks_blobs(job, task, worker));
  worker.append_lease(job.key, sequence, attempt);
  count("leases_adopted");
}

void Books::close_lease(JobRecord& job, TaskRecord& task) {
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

bool Books::is_open(WorkerIndex index, const LeaseRun& run, const TaskRecord* task) const {
  return task != nullptr && task->state == TaskState::leased && task->worker == index &&
         task->current_attempt() == run.attempt;
}

void Books::settle(WorkerIndex index) {
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

void Books::adopt_early(AdoptedLease& adopted, WorkerIndex index, Attempt attempt) {
  adopted = {index, attempt, std::nullopt};
  ++workers_.at(index).leases;
}

void Books::keep_early(AdoptedLease& adopted, Outcome&& outcome) {
  workers_.at(adopted.worker).early_bytes += early_bytes_of(outcome);
  adopted.outcome = std::move(outcome);
}

void Books::drop_adopted(const AdoptedLease& adopted) {
  WorkerRecord& worker = workers_.at(adopted.worker);
  if (adopted.outcome) {
    worker.early_bytes -= early_bytes_of(*adopted.outcome);
  } else {
    --worker.leases;
  }
}

void Books::add_reported(WorkerIndex index, std::uint64_t count) {
  workers_.at(index).leases += static_cast<std::uint32_t>(count);
}

void Books::drop_reported(WorkerIndex index, std::uint64_t count) {
  workers_.at(index).leases -= static_cast<std::uint32_t>(count);
}

// What one task of the job takes beyond one slot.
void Books::charge(const JobRecord& job, WorkerRecord& worker) const {
  worker.extra_slots += width_of(job.demand->wanted, shape_of(worker.hello)) - 1;
  worker.gpus_taken += job.demand->wanted.gpus;
}

void Books::refund(const JobRecord& job, WorkerRecord& worker) const {
  worker.extra_slots -= width_of(job.demand->wanted, shape_of(worker.hello)) - 1;
  worker.gpus_taken -= job.demand->wanted.gpus;
}

// Leases that ask for resources are never excluded from the load: their widths must add up.
void Books::flag_fetching(const JobRecord& job, TaskRecord& task, WorkerRecord& worker,
                          bool fetches) const {
  if (task.fetches == fetches) return;
  task.fetches = fetches;
  if (job.demand == nullptr) worker.fetching += fetches ? 1U : 0U - 1U;
}

// --- Workers ------------------------------------------------------------------------------------

WorkerIndex Books::add_worker(message::HelloWorker&& hello, const std::string& user) {
  const WorkerIndex index = workers_.add(std::move(hello));
  workers_.at(index).user = user;
  workers_.at(index).number = ++counters_["workers"];
  groups_.add(index);
  return index;
}

void Books::remove_worker(WorkerIndex index) {
  reservations_.forget(index);
  groups_.remove(index);
  waiting_workers_.erase(index);
  workers_.remove(index);
}

void Books::hear_blobs(WorkerIndex index, message::WorkerBlobs&& said) {
  WorkerRecord& worker = workers_.at(index);
  workers_.set_shares(index, said.shares);
  for (const BlobId& id : said.removed) worker.blobs.erase(id);
  for (const BlobName& name : said.added) {
    if (worker.blobs.size() < kMaxWorkerBlobs) {
      worker.blobs.insert(name.id);
    } else {
      count("worker_blobs_unknown");
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

void Books::forget_blobs(WorkerIndex index) {
  workers_.set_shares(index, false);
  workers_.at(index).blobs.clear();
  workers_.at(index).waiting = 0;
  waiting_workers_.erase(index);
}

// --- What may be leased -------------------------------------------------------------------------

bool Books::takes_outcomes(const SessionRecord& session) const {
  return session.outcome_bytes <= std::min(session.credit.bytes, kMostOutcomeBytes) &&
         session.outcomes_held <= session.credit.tasks;
}

bool Books::wants_leases(const JobRecord& job) const {
  return job.has_queued() && !job.at_cap() && takes_outcomes(*job.session);
}

void Books::set_runnable(JobRecord& job) {
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

void Books::review_limit(JobRecord& job) {
  set_runnable(job);
  if (job.has_last_chance()) last_chance_jobs_.insert(job.key);
}

void Books::release_reservation() {
  const WorkerIndex index = reservations_.last_chance();
  if (index == kNoWorker || workers_.at(index).leases > 0 || !last_chance_jobs_.empty()) return;
  reservations_.release_last_chance();
}

}  // namespace muster
