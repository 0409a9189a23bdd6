#include "broker/books/audit.hpp"

#include <algorithm>
#include <unordered_map>

#include "broker/books/books.hpp"
#include "common/check.hpp"
#include "common/protocol/resources.hpp"

namespace muster {
namespace {

// What the tables say when their records are added up.
struct Tally {
  struct OfWorker {
    std::uint64_t leases = 0;
    std::uint64_t short_leases = 0;
    std::uint64_t bytes = 0;
    std::uint64_t early = 0;
    std::uint64_t fetching = 0;
    std::uint64_t extra_slots = 0;
    std::uint64_t gpus = 0;
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
  std::unordered_map<const Demand*, std::uint32_t> demand_jobs;
  std::size_t runnable = 0;
  std::uint64_t blob_jobs = 0;
};

void add_task(const JobRecord& job, const TaskRecord& task, const Books& books, Tally& tally) {
  Tally::OfSession& session = tally.sessions[job.session];
  session.held += task.state == TaskState::acknowledged ? 0 : 1;
  (task.state == TaskState::ended ? session.outcome_bytes : session.payload_bytes) +=
      task.data.bytes.size();
  CHECK(task.losses <= job.spec.crash_budget);
  CHECK(task.failures <= job.spec.retries);
  CHECK(job.names_blobs || task.data.blobs == 0 || task.state == TaskState::ended);
  if (task.state != TaskState::leased) {
    CHECK(task.worker == kNoWorker && !task.fetches);
    return;
  }
  CHECK(task.attempts_made > 0);
  CHECK(!task.fetches || job.names_blobs);
  Tally::OfWorker& worker = tally.workers[task.worker];
  ++worker.leases;
  worker.bytes += task.data.bytes.size();
  worker.short_leases += task.is_short ? 1 : 0;
  if (job.demand == nullptr) {
    worker.fetching += task.fetches ? 1 : 0;
    return;
  }
  const Shape shape = shape_of(books.worker(task.worker).hello);
  worker.extra_slots += width_of(job.spec.resources, shape) - 1;
  worker.gpus += job.spec.resources.gpus;
}

void check_job(JobRecord& job, const Books& books, Tally& tally) {
  std::uint64_t queued = 0;
  std::uint64_t leased = 0;
  std::uint64_t outcome_bytes = 0;
  job.each([&](std::uint64_t, const TaskRecord& task) {
    queued += task.state == TaskState::queued ? 1 : 0;
    leased += task.state == TaskState::leased ? 1 : 0;
    if (task.state == TaskState::ended) outcome_bytes += task.data.bytes.size();
    add_task(job, task, books, tally);
  });
  tally.sessions[job.session].skipped += job.skipped_records();
  CHECK(queued == job.queued);
  CHECK(leased == job.leased);
  CHECK(outcome_bytes == job.outcome_bytes);
  CHECK(job.end() == job.base() || job.find(job.base())->state != TaskState::acknowledged);
  CHECK(job.names_blobs || job.spec.function.body.blobs == 0);
  tally.blob_jobs += job.names_blobs ? 1 : 0;
  tally.runnable += job.runnable ? 1 : 0;
  CHECK(job.runnable == books.queue().contains(job));
  CHECK(job.runnable || job.waits_in == nullptr);
  CHECK(job.waits_in == nullptr || job.classes != nullptr);
  if (job.classes != nullptr) ++tally.cache_jobs[job.classes];
  if (job.demand != nullptr) ++tally.demand_jobs[job.demand];
  CHECK(!books.wants_leases(job) || job.runnable);
  CHECK(job.spec.max_running == 0 || job.leased <= job.spec.max_running ||
        books.counter("leases_adopted") > 0);
  CHECK(!job.has_last_chance() || job.at_cap() || books.last_chance_jobs().count(job.key) == 1);
  for (const auto& [sequence, adopted] : job.adopted) {
    CHECK(sequence >= job.end());
    Tally::OfWorker& worker = tally.workers[adopted.worker];
    ++(adopted.outcome ? worker.early : worker.leases);
  }
  CHECK(job.declared || !job.adopted.empty());
}

void check_workers(const Books& books, Tally& tally) {
  std::uint32_t sharing = 0;
  const Reservations& reservations = books.reservations();
  books.workers().each([&](WorkerIndex index, const WorkerRecord& worker) {
    const Tally::OfWorker& sum = tally.workers[index];
    const std::uint64_t reported = books.reports().count(index);
    const bool adopted = books.counter("leases_adopted") > 0;
    CHECK(worker.leases == sum.leases + reported);
    CHECK((worker.early_bytes > 0) == (sum.early > 0));
    CHECK(worker.lease_bytes == sum.bytes);
    CHECK(worker.short_leases == sum.short_leases);
    // Those that can start and, apart from them, those that wait.
    const std::uint64_t most = worker.hello.slots + limits::kMaxPrefetch + worker.stuck_slots;
    CHECK(worker.fetching <= worker.leases);
    CHECK(worker.full_load() - reported <= (worker.fetching == 0 ? most : 2 * most) || adopted);
    CHECK(worker.fetching == sum.fetching);
    CHECK(worker.blobs.size() <= kMaxWorkerBlobs && (worker.blobs.empty() || !worker.shares));
    CHECK((books.waiting_workers().count(index) != 0) == (worker.waiting > 0));
    sharing += worker.shares ? 1 : 0;
    const auto& members = books.workers().classes()[worker.class_index].members;
    CHECK(members.at(worker.class_place) == index);
    CHECK(worker.extra_slots == sum.extra_slots);
    CHECK(worker.gpus_taken == sum.gpus);
    CHECK(worker.gpus_taken <= worker.hello.gpus || adopted);
    CHECK(worker.reserved ==
          (index == reservations.last_chance() || index == reservations.drained()));
  });
  CHECK((sharing == books.workers().size()) == books.workers().all_share());
  CHECK(reservations.drained() == kNoWorker ||
        reservations.drained() != reservations.last_chance());
}

void check_sessions(const Books& books, Tally& tally) {
  for (const auto& [id, session] : books.sessions()) {
    const Tally::OfSession& sum = tally.sessions[session.get()];
    CHECK(session->open_tasks + session->outcomes_held == sum.held);
    CHECK(session->open_tasks <= session->credit.tasks);
    CHECK(session->payload_bytes == sum.payload_bytes);
    CHECK(session->outcome_bytes == sum.outcome_bytes);
    CHECK(session->skipped_records == sum.skipped);
    CHECK(!session->present || !session->silent);
  }
}

void check_users(const Books& books) {
  struct Sums {
    std::uint64_t sessions = 0, jobs = 0, blobs = 0, blob_bytes = 0, tasks = 0, bytes = 0;
  };
  std::unordered_map<const UserRecord*, Sums> sums;
  for (const auto& [id, session] : books.sessions()) {
    CHECK(session->user != nullptr || !session->present);
    if (session->user == nullptr) continue;
    Sums& its = sums[session->user];
    ++its.sessions;
    its.jobs += session->jobs.size();
    its.tasks += session->credit.tasks;
    its.bytes += session->credit.bytes;
    session->blobs.each([&](const BlobId&, const BlobTable::Kept& kept) {
      its.blobs += kept.charged_bytes > 0 ? 1 : 0;
      its.blob_bytes += kept.charged_bytes;
    });
  }
  books.users().each([&](const UserRecord& user) {
    const Sums& its = sums.at(&user);
    CHECK(user.sessions == its.sessions && user.jobs_held == its.jobs);
    CHECK(user.blobs_kept == its.blobs && user.blob_bytes == its.blob_bytes);
    CHECK(user.granted.tasks == its.tasks && user.granted.bytes == its.bytes);
  });
}

void check_waiting(const Books& books) {
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
  check(books.groups().held());
  books.groups().each_class_cache([&](const ClassCache& cache) {
    check(cache.plain);
    check(cache.near);
  });
  books.groups().each_demand([&](const Demand& demand) { check(demand.waiting); });
  CHECK(books.queue().waiting() == waiting);
  CHECK(!books.queue().any_of([](const JobRecord& job) { return job.waits_in != nullptr; }));
}

// No list of classes and no demand outlives its jobs, and each lists the workers that it should.
void check_groups(const Books& books, const Tally& tally) {
  std::size_t caches = 0;
  books.groups().each_class_cache([&](const ClassCache& cache) {
    ++caches;
    CHECK(cache.jobs == tally.cache_jobs.at(&cache));
  });
  CHECK(caches == tally.cache_jobs.size());
  std::size_t demands = 0;
  books.groups().each_demand([&](const Demand& demand) {
    ++demands;
    CHECK(demand.jobs == tally.demand_jobs.at(&demand));
  });
  CHECK(demands == tally.demand_jobs.size());
  auto& groups = const_cast<JobGroups&>(books.groups());  // looking up fills its cache
  for (const auto& [key, job] : books.jobs()) {
    CHECK((job->demand != nullptr) == (job->declared && is_demanding(job->spec.resources)));
    if (job->demand == nullptr) continue;
    CHECK(job->demand->wanted == job->spec.resources);
    std::size_t fitting = 0;
    books.workers().each([&, &job = *job](WorkerIndex index, const WorkerRecord&) {
      fitting += groups.may_run(job, index) ? 1 : 0;
    });
    CHECK(fitting == job->demand->candidates.size());
    for (const auto& candidate : job->demand->candidates) {
      CHECK(groups.may_run(*job, candidate.worker));
    }
  }
}

}  // namespace

void audit(const Books& books) {
  Tally tally;
  for (const auto& [key, job] : books.jobs()) {
    CHECK(job->key == key);
    CHECK(job->session->jobs.at(value(job->id)) == job.get());
    check_job(*job, books, tally);
  }
  CHECK(books.queue().size() == tally.runnable);
  CHECK(books.blob_jobs() == tally.blob_jobs);
  check_workers(books, tally);
  check_sessions(books, tally);
  check_users(books);
  check_waiting(books);
  check_groups(books, tally);
  books.reports().check_invariants();
}

}  // namespace muster
