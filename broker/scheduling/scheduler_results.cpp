// How the results that programs have not consumed bound what is leased.
//
// A job holds the blobs of its outcomes that its producer has not released and what is on its way,
// which are counted here, and what its program has received and not consumed, which the producer
// says (RESULTS_HELD). It gets no leases beyond what it may hold: 256 MiB, or what is left of the
// 1 GiB of its session when several jobs hold much. Each may hold a little in any case: a program
// that waits for one job while nobody reads the others gets its results.
#include <algorithm>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"

namespace muster {
namespace {

// A larger size changes no decision.
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 50;
// A producer that takes no result of a job for so long, while as many wait as may, waits for
// another.
constexpr Duration kStarvesAfter = std::chrono::seconds(1);

// What each job of a session may hold that holds so much in all. In steps, because a change makes
// all its jobs be looked at; not back up at once, so that two steps do not take turns.
std::uint64_t limit_of_each(std::uint64_t held, std::uint64_t before) {
  constexpr std::uint64_t kStep = limits::kLeastHeldBytes;
  const std::uint64_t left = limits::kHeldSessionBytes - std::min(held, limits::kHeldSessionBytes);
  const std::uint64_t limit = std::clamp(left - left % kStep, kStep, limits::kHeldResultBytes);
  return limit > before && left < before + 2 * kStep ? before : limit;
}

}  // namespace

// The bytes of blobs that a payload names. A hostile sum wraps round: it only slows its own job.
std::uint64_t Scheduler::blob_bytes(const Payload& payload) {
  std::uint64_t total = 0;
  for (std::uint32_t i = 0; i < payload.blobs; ++i) total += blob_at(payload, i).size_bytes;
  return total;
}

void Scheduler::count_result(JobRecord& job, const Outcome& outcome) {
  std::uint64_t& mean = job.mean_result_bytes;
  const std::uint64_t of_blobs = blob_bytes(outcome.body);
  job.held_blob_bytes += of_blobs;
  if (of_blobs > 0) review_limits(*job.session);
  if (outcome.status == OutcomeStatus::result) {
    const std::uint64_t inline_bytes = job.counts_inline() ? outcome.body.bytes.size() : 0;
    const std::uint64_t sample = std::min(of_blobs + inline_bytes, kMostBytes);
    mean = mean == 0 ? sample : (mean * 3 + sample) / 4;
  }
  review_limit(job);
}

// The job may have more leases out than before, or fewer.
void Scheduler::review_limit(JobRecord& job) {
  set_runnable(job);
  if (job.has_last_chance()) last_chance_jobs_.insert(job.key);
}

// What each job of the session may hold, after a change of what they hold together.
void Scheduler::review_limits(SessionRecord& session) {
  const std::uint64_t held = session.held_blob_bytes + session.told_bytes;
  const std::uint64_t limit = limit_of_each(held, session.held_limit);
  if (std::exchange(session.held_limit, limit) == limit) return;
  for (auto& [id, job] : session.jobs) review_limit(*job);
}

// The producer needs so many bytes of blobs of this job's outcomes no longer.
void Scheduler::release_result(SessionRecord& session, JobKey key, std::uint64_t size_bytes) {
  session.held_blob_bytes -= size_bytes;
  review_limits(session);
  JobRecord* job = find_job(key);
  if (job == nullptr) return;
  job->held_blob_bytes -= size_bytes;
  job->full_since = kNever;
  review_limit(*job);
}

// What the program holds of a job's results, and of all of them; of a job that has ended, too.
void Scheduler::hold_results(SessionRecord& session, const message::ResultsHeld& held) {
  session.told_bytes = std::min(held.session_bytes, kMostBytes);
  review_limits(session);
  JobRecord* job = find_job(session, held.job);
  if (job == nullptr) return;
  if (held.job_bytes < job->told_bytes) job->full_since = kNever;
  job->told_bytes = std::min(held.job_bytes, kMostBytes);
  review_limit(*job);
}

// Whoever takes results, however slowly, gets them before more tasks start. Who takes none may wait
// for one that has to run again, because its worker was lost, or keeps all blobs: that goes on, one
// task after another. Other tasks start in order, so that nobody waits for one of them who has not
// consumed what came before.
void Scheduler::review_results(JobRecord& job, Time now) {
  if (!job.is_full() || job.leased > 0 || job.queued == 0 ||
      (job.held_blob_bytes < job.session->held_limit && !job.repeats_tasks())) {
    job.full_since = kNever;
  } else if (job.full_since == kNever) {
    job.full_since = now;
  } else if (now - job.full_since >= kStarvesAfter && !job.starves) {
    job.starves = true;
    job.full_since = kNever;
    review_limit(job);
  }
}

std::string Scheduler::held_reason(const JobRecord& job) {
  if (!job.is_full()) return "";
  std::string reason = "its results wait: the program has not taken " +
                       std::to_string(job.held_bytes() >> 20) + " MiB of them";
  const std::uint64_t of_all = job.session->held_blob_bytes + job.session->told_bytes;
  if (job.session->held_limit < limits::kHeldResultBytes) {
    reason += ", and " + std::to_string(of_all >> 20) + " MiB of those of all its jobs";
  }
  return reason;
}

void Scheduler::check_results() const {
  for (const auto& [id, session] : sessions_) {
    std::unordered_map<JobKey, std::uint64_t> of_jobs;
    std::uint64_t held_bytes = 0;
    session->blobs.each([&](const BlobId&, const BlobTable::Kept& kept) {
      of_jobs[kept.job] += kept.result_bytes;
      held_bytes += kept.result_bytes;
    });
    CHECK(held_bytes == session->held_blob_bytes);
    CHECK(session->held_limit ==
          limit_of_each(session->held_blob_bytes + session->told_bytes, session->held_limit));
    for (const auto& [number, job] : session->jobs) {
      CHECK(of_jobs[job->key] == job->held_blob_bytes);
    }
  }
}

}  // namespace muster
