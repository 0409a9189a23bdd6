// Views of the scheduler: STATUS, counters, and the invariants that tests check after every step.
#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"

namespace muster {
namespace {

std::uint64_t milliseconds(Duration duration) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, duration_cast<std::chrono::milliseconds>(duration).count()));
}
std::uint64_t microseconds(Duration duration) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, duration_cast<std::chrono::microseconds>(duration).count()));
}

}  // namespace

message::Status Scheduler::status(Time now) const {
  message::Status status;
  status.software_version = options_.software_version;
  status.incarnation = to_hex(options_.incarnation);
  status.uptime_ms = milliseconds(now - started_);
  status.sessions = static_cast<std::uint32_t>(sessions_.size());
  status.total_slots = workers_.pool().total_slots;
  std::map<std::string_view, Duration> round_trips;  // by node
  auto& workers = const_cast<WorkerTable&>(workers_);
  workers.each([&](WorkerIndex, const WorkerRecord& worker) {
    if (!nodes_.empty()) round_trips[worker.hello.node] = worker.round_trip;
    if (status.workers.size() >= limits::kMaxStatusRows) return;
    message::WorkerStatus row;
    row.worker = "w" + std::to_string(worker.number);
    row.node = worker.hello.node;
    row.executor = worker.hello.executor;
    row.python = worker.hello.python;
    row.process_id = worker.hello.process_id;
    row.cores = worker.hello.cores;
    row.memory_bytes = worker.hello.memory_bytes;
    row.gpus = worker.hello.gpus;
    row.labels = worker.hello.labels;
    row.slots = worker.hello.slots;
    row.leases = worker.leases;
    row.stuck_slots = worker.stuck_slots;
    row.draining = worker.draining;
    row.paused = worker.paused ? worker.pause_reason : "";
    row.tasks_done = worker.tasks_done;
    row.round_trip_us = microseconds(worker.round_trip);
    row.silent_ms = milliseconds(now - worker.last_heard);
    status.workers.push_back(std::move(row));
  });
  for (const auto& [key, job] : jobs_) {
    if (status.jobs.size() >= limits::kMaxStatusRows) break;
    std::string waiting = job->waiting.substr(0, limits::kMaxNameBytes);
    status.jobs.push_back({shown(*job->session), job->session->label, value(job->id),
                           job->spec.function.name, job->spec.priority, job->queued, job->leased,
                           job->done, job->failed, microseconds(job->mean_duration),
                           std::move(waiting)});
  }
  std::sort(status.jobs.begin(), status.jobs.end(), [](const auto& left, const auto& right) {
    return std::tuple(left.session.size(), left.session, left.job) <
           std::tuple(right.session.size(), right.session, right.job);
  });
  for (const message::NodeStatus& node : nodes_) {
    if (status.nodes.size() >= limits::kMaxStatusRows) break;
    status.nodes.push_back(node);
    const auto found = round_trips.find(node.name);
    if (found != round_trips.end()) {
      status.nodes.back().round_trip_us = microseconds(found->second);
    }
  }
  status.counters.assign(counters_.begin(), counters_.end());
  status.counters.insert(status.counters.end(), gauges_.begin(), gauges_.end());
  return status;
}

std::uint64_t Scheduler::counter(const std::string& name) const {
  const auto found = counters_.find(name);
  return found == counters_.end() ? 0 : found->second;
}

std::uint64_t Scheduler::tasks_held() const {
  std::uint64_t total = 0;
  for (const auto& [id, session] : sessions_) total += session->open_tasks + session->outcomes_held;
  return total;
}

// What the tables say when their records are added up.
struct Scheduler::Tally {
  struct OfWorker {
    std::uint64_t leases = 0;
    std::uint64_t short_leases = 0;
    std::uint64_t bytes = 0;
    std::uint64_t early = 0;
  };
  struct OfSession {
    std::uint64_t held = 0;
    std::uint64_t payload_bytes = 0;
    std::uint64_t outcome_bytes = 0;
    std::uint64_t skipped = 0;
  };
  std::unordered_map<WorkerIndex, OfWorker> workers;
  std::unordered_map<const SessionRecord*, OfSession> sessions;
  std::unordered_map<const ClassCache*, std::uint64_t> cache_jobs;
  std::size_t runnable = 0;
};

void Scheduler::check_invariants() const {
  Tally tally;
  for (const auto& [key, job] : jobs_) {
    CHECK(job->key == key);
    CHECK(job->session->jobs.at(value(job->id)) == job.get());
    check_job(*job, tally);
  }
  check_workers(tally);
  check_sessions(tally);
  check_users();
  CHECK(run_queue_.size() == tally.runnable);
  check_waiting();
  CHECK(tally.cache_jobs.size() == class_cache_.size());
  for (const auto& [key, cache] : class_cache_) CHECK(cache.jobs == tally.cache_jobs[&cache]);
  reports_.check_invariants();
  check_demands();
  check_places();
  check_results();
  check_blobs();
}

void Scheduler::check_job(JobRecord& job, Tally& tally) const {
  std::uint64_t queued = 0;
  std::uint64_t leased = 0;
  std::uint64_t outcome_bytes = 0;
  Tally::OfSession& session = tally.sessions[job.session];
  job.each([&](std::uint64_t, const TaskRecord& task) {
    queued += task.state == TaskState::queued ? 1 : 0;
    if (task.state == TaskState::leased) {
      ++leased;
      CHECK(task.attempts_made > 0);
      Tally::OfWorker& worker = tally.workers[task.worker];
      ++worker.leases;
      worker.bytes += task.data.bytes.size();
      worker.short_leases += task.is_short ? 1 : 0;
    } else {
      CHECK(task.worker == kNoWorker);
    }
    session.held += task.state == TaskState::acknowledged ? 0 : 1;
    (task.state == TaskState::ended ? outcome_bytes : session.payload_bytes) +=
        task.data.bytes.size();
    CHECK(task.losses <= job.spec.crash_budget);
    CHECK(task.failures <= job.spec.retries);
  });
  session.outcome_bytes += outcome_bytes;
  CHECK(outcome_bytes == job.outcome_bytes);
  session.skipped += job.skipped_records();
  CHECK(queued == job.queued);
  CHECK(leased == job.leased);
  CHECK(job.end() == job.base() || job.find(job.base())->state != TaskState::acknowledged);
  tally.runnable += job.runnable ? 1 : 0;
  CHECK(job.runnable == run_queue_.contains(job));
  CHECK(job.runnable || job.waits_in == nullptr);
  CHECK(job.waits_in == nullptr || job.classes != nullptr);
  if (job.classes != nullptr) ++tally.cache_jobs[job.classes];
  CHECK(!wants_leases(job) || job.runnable);
  CHECK(job.spec.max_running == 0 || job.leased <= job.spec.max_running ||
        counter("leases_adopted") > 0);
  CHECK(!job.has_last_chance() || job.at_cap() || last_chance_jobs_.count(job.key) == 1);
  for (const auto& [sequence, adopted] : job.adopted) {
    CHECK(sequence >= job.end());
    Tally::OfWorker& worker = tally.workers[adopted.worker];
    ++(adopted.outcome ? worker.early : worker.leases);
  }
  CHECK(job.declared || !job.adopted.empty());
}

void Scheduler::check_workers(Tally& tally) const {
  auto& self = const_cast<Scheduler&>(*this);
  self.workers_.each([&](WorkerIndex index, const WorkerRecord& worker) {
    const Tally::OfWorker& sum = tally.workers[index];
    CHECK(worker.leases == sum.leases + reports_.count(index));
    CHECK((worker.early_bytes > 0) == (sum.early > 0));
    CHECK(worker.lease_bytes == sum.bytes);
    CHECK(worker.short_leases == sum.short_leases);
    // Those that can start and, apart from them, those that wait.
    const std::uint64_t most = worker.hello.slots + limits::kMaxPrefetch + worker.stuck_slots;
    CHECK(worker.fetching <= worker.leases);
    CHECK(worker.full_load() - reports_.count(index) <= (worker.fetching == 0 ? most : 2 * most) ||
          counter("leases_adopted") > 0);
    const auto peer = peers_.find(worker.peer);
    CHECK(!worker.present || (peer != peers_.end() && peer->second.worker == index));
  });
}

void Scheduler::check_sessions(Tally& tally) const {
  for (const auto& [id, session] : sessions_) {
    const Tally::OfSession& sum = tally.sessions[session.get()];
    CHECK(session->open_tasks + session->outcomes_held == sum.held);
    CHECK(session->open_tasks <= session->credit.tasks);
    CHECK(session->payload_bytes == sum.payload_bytes);
    CHECK(session->outcome_bytes == sum.outcome_bytes);
    CHECK(session->skipped_records == sum.skipped);
    CHECK(!session->present || !session->silent);
    if (!session->present && !session->silent) continue;
    const Peer& peer = peers_.at(session->peer);
    CHECK(peer.session == session.get());
    CHECK(peer.kind == (session->silent ? PeerKind::silent_session : PeerKind::session));
  }
}

void Scheduler::check_waiting() const {
  std::size_t waiting = 0;
  const auto check = [&](const WaitGroup& group) {
    for (const auto& [number, waiters] : group.users) {
      CHECK(!waiters.jobs.empty());
      waiting += waiters.jobs.size();
      for (const auto& [key, job] : waiters.jobs) {
        CHECK(job->waits_in == &group && job->runnable && job->session->user->number == number);
      }
    }
  };
  check(held_jobs_);
  const_cast<Scheduler*>(this)->each_group(check);
  CHECK(run_queue_.waiting() == waiting);
  CHECK(!run_queue_.any_of([](const JobRecord& job) { return job.waits_in != nullptr; }));
}

}  // namespace muster
