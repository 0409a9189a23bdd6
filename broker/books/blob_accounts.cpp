#include "broker/books/blob_accounts.hpp"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "broker/books/blob_files.hpp"
#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"

namespace muster {
namespace {

// Blobs that one session keeps: 16 GiB in the smallest ones.
constexpr std::size_t kMaxSessionBlobs = 262'144;
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

// The bytes of blobs that a payload names. A hostile sum wraps round: it only slows its own job.
std::uint64_t blob_bytes(const Payload& payload) {
  std::uint64_t total = 0;
  for (std::uint32_t i = 0; i < payload.blobs; ++i) total += blob_at(payload, i).size_bytes;
  return total;
}

void count_kept(SessionRecord& session, const BlobTable::Kept& kept) {
  if (kept.charged_bytes == 0) return;  // a result, or a file of the broker's own user
  ++session.user->blobs_kept;
  session.user->blob_bytes += kept.charged_bytes;
}

void count_released(SessionRecord& session, const BlobTable::Kept& kept) {
  if (kept.charged_bytes == 0) return;
  --session.user->blobs_kept;
  session.user->blob_bytes -= kept.charged_bytes;
}

}  // namespace

message::BlobAnswers BlobAccounts::put(SessionRecord& session, const message::BlobPut& put) {
  message::BlobAnswers answers;
  answers.blobs.reserve(put.blobs.size());
  for (const BlobSource& source : put.blobs) {
    BlobAnswer answer{source.name.id};
    answer.text = put_one(session, source, answer.state);
    answers.blobs.push_back(std::move(answer));
  }
  return answers;
}

// Returns why it was refused; empty: see `state`.
std::string BlobAccounts::put_one(SessionRecord& session, const BlobSource& source,
                                  BlobState& state) {
  state = BlobState::refused;
  BlobFiles* const files = books_.options().blobs;
  const LocalUser& who = session.user->who;
  if (who.is_member && source.place == BlobPlace::file) {
    return who.name + " cannot have this broker open '" + source.file +
           "', because the broker would do so with the rights of its own user; send the content";
  }
  if (files != nullptr && source.place != BlobPlace::kept) {
    std::string error = files->adopt(source, who.is_member ? std::optional(who.id) : std::nullopt);
    if (!error.empty()) return error;
  }
  if (files != nullptr && !files->holds(source.name)) {
    state = BlobState::missing;
    return "";
  }
  if (BlobTable::Kept* kept = session.blobs.find(source.name.id)) {
    kept->is_result = false;  // of which it is an argument now
  } else {
    // What is kept in the place where a user put it does not count, nor is it our room.
    const std::uint64_t charged =
        source.place == BlobPlace::file ? 0 : std::max<std::uint64_t>(source.name.size_bytes, 1);
    std::string beyond = beyond_session(session, charged);
    if (beyond.empty()) beyond = beyond_user(session, charged);
    if (!beyond.empty()) return beyond;
    if (files != nullptr) files->pin(source.name.id);
    count_kept(session,
               session.blobs.keep(source.name.id, {source.name.size_bytes, charged, false, {}, 0}));
    books_.count("blobs_put");
  }
  state = BlobState::here;
  return "";
}

// Why the session may keep no further blob of this size; empty: it may.
std::string BlobAccounts::beyond_session(const SessionRecord& session,
                                         std::uint64_t charged) const {
  if (session.blobs.size() >= kMaxSessionBlobs) {
    return "more than " + std::to_string(kMaxSessionBlobs) +
           " blobs at once; release some, or use fewer and larger ones";
  }
  const std::uint64_t most = books_.options().credit_blob_bytes;
  if (charged <= most - std::min(most, session.blobs.charged_bytes())) return "";
  return "this program keeps " + std::to_string(session.blobs.charged_bytes()) +
         " bytes of blobs here already, of " + std::to_string(most) +
         " that it may; release some, or raise --blob-memory or --blob-disk of the broker";
}

// Why the session's user may keep no further blob of this size; empty: it may.
std::string BlobAccounts::beyond_user(const SessionRecord& session, std::uint64_t charged) const {
  const UserRecord& user = *session.user;
  if (!user.who.is_member) return "";
  const std::uint64_t most = credit(user.who, books_.options().credit_blob_bytes);
  if (user.blobs_kept < member_limits::kBlobs &&
      charged <= most - std::min(most, user.blob_bytes)) {
    return "";
  }
  return user.who.name + " keeps " + std::to_string(user.blobs_kept) + " blobs of " +
         std::to_string(user.blob_bytes) + " bytes here already; one user may keep " +
         std::to_string(member_limits::kBlobs) + " of " + std::to_string(most) +
         " bytes, all programs together: release some, or end programs that keep them";
}

std::uint64_t BlobAccounts::credit(const LocalUser& who, std::uint64_t all) {
  return who.is_member ? all / member_limits::kBlobsShare : all;
}

void BlobAccounts::release(SessionRecord& session, const message::BlobRelease& released) {
  for (const BlobId& id : released.blobs) release_one(session, id);
}

void BlobAccounts::release_one(SessionRecord& session, const BlobId& id) {
  const auto kept = session.blobs.release(id);
  if (!kept) return;
  count_released(session, *kept);
  if (books_.options().blobs != nullptr) books_.options().blobs->unpin(id, !kept->is_result);
  if (kept->result_bytes > 0) release_result(session, kept->job, kept->result_bytes);
}

void BlobAccounts::release_stale(SessionRecord& session, const Outcome& outcome) {
  for (std::uint32_t i = 0; i < outcome.body.blobs; ++i) {
    const BlobId id = blob_at(outcome.body, i).id;
    const BlobTable::Kept* kept = session.blobs.find(id);
    if (kept != nullptr && kept->is_result && kept->result_bytes == 0) release_one(session, id);
  }
}

void BlobAccounts::end_session(SessionRecord& session) {
  session.blobs.each(
      [&](const BlobId&, const BlobTable::Kept& kept) { count_released(session, kept); });
  if (books_.options().blobs == nullptr) return;
  session.blobs.each([&](const BlobId& id, const BlobTable::Kept& kept) {
    books_.options().blobs->unpin(id, !kept.is_result);
  });
  session.blobs = {};
  books_.options().blobs->clear_incoming(to_hex(session.id));
}

std::string BlobAccounts::lost_blob(const Payload& payload) const {
  const BlobFiles* const files = books_.options().blobs;
  if (files == nullptr) return "";
  for (std::uint32_t i = 0; i < payload.blobs; ++i) {
    const BlobName name = blob_at(payload, i);
    if (files->holds(name)) continue;
    return "blob " + to_hex(name.id) + " (" + std::to_string(name.size_bytes) +
           " bytes) is not at the broker: it was released before its tasks were done, or the "
           "broker's folders were emptied; submit the task again with its data";
  }
  return "";
}

void BlobAccounts::keep_outcome(JobRecord& job, const Payload& body, bool counted) {
  BlobFiles* const files = books_.options().blobs;
  for (std::uint32_t i = 0; i < body.blobs; ++i) {
    const BlobName name = blob_at(body, i);
    BlobTable::Kept* kept = job.session->blobs.find(name.id);
    if (kept == nullptr) {
      if (files != nullptr && !files->holds(name)) continue;
      if (files != nullptr) files->pin(name.id);
      kept = &job.session->blobs.keep(name.id, {name.size_bytes, 0, true, job.key, 0});
    }
    if (!counted) continue;
    if (kept->job != job.key && kept->result_bytes > 0) {  // it was another job's result, too
      release_result(*job.session, kept->job, std::exchange(kept->result_bytes, 0));
    }
    kept->job = job.key;
    kept->result_bytes += name.size_bytes;
    job.session->held_blob_bytes += name.size_bytes;
  }
}

// --- Results that programs have not consumed ----------------------------------------------------

void BlobAccounts::count_result(JobRecord& job, OutcomeStatus status, const Payload& body) {
  std::uint64_t& mean = job.mean_result_bytes;
  const std::uint64_t of_blobs = blob_bytes(body);
  job.held_blob_bytes += of_blobs;
  if (of_blobs > 0) review_limits(*job.session);
  if (status == OutcomeStatus::result) {
    const std::uint64_t inline_bytes = job.counts_inline() ? body.bytes.size() : 0;
    const std::uint64_t sample = std::min(of_blobs + inline_bytes, kMostBlobBytes);
    mean = mean == 0 ? sample : (mean * 3 + sample) / 4;
  }
  books_.review_limit(job);
}

// What each job of the session may hold, after a change of what they hold together.
void BlobAccounts::review_limits(SessionRecord& session) {
  const std::uint64_t held = session.held_blob_bytes + session.told_bytes;
  const std::uint64_t limit = limit_of_each(held, session.held_limit);
  if (std::exchange(session.held_limit, limit) == limit) return;
  for (auto& [id, job] : session.jobs) books_.review_limit(*job);
}

// The producer needs so many bytes of blobs of this job's outcomes no longer.
void BlobAccounts::release_result(SessionRecord& session, JobKey key, std::uint64_t size_bytes) {
  session.held_blob_bytes -= size_bytes;
  review_limits(session);
  JobRecord* job = books_.find_job(key);
  if (job == nullptr) return;
  job->held_blob_bytes -= size_bytes;
  job->full_since = kNever;
  books_.review_limit(*job);
}

void BlobAccounts::hold_results(SessionRecord& session, const message::ResultsHeld& held) {
  session.told_bytes = std::min(held.session_bytes, kMostBlobBytes);
  review_limits(session);
  JobRecord* job = books_.find_job(session, held.job);
  if (job == nullptr) return;
  if (held.job_bytes < job->told_bytes) job->full_since = kNever;
  job->told_bytes = std::min(held.job_bytes, kMostBlobBytes);
  books_.review_limit(*job);
}

// A program that takes results, however slowly, gets them before more tasks start. One that takes
// none may wait for one that has to run again, because its worker was lost, or keeps all blobs:
// that goes on, one task after another. Other tasks start in order, so that nobody waits for one of
// them who has not consumed what came before.
void BlobAccounts::review_results(JobRecord& job, Time now) {
  if (!job.is_full() || job.leased > 0 || job.queued == 0 ||
      (job.held_blob_bytes < job.session->held_limit && !job.repeats_tasks())) {
    job.full_since = kNever;
  } else if (job.full_since == kNever) {
    job.full_since = now;
  } else if (now - job.full_since >= kStarvesAfter && !job.starves) {
    job.starves = true;
    job.full_since = kNever;
    books_.review_limit(job);
  }
}

std::string BlobAccounts::held_reason(const JobRecord& job) {
  if (!job.is_full()) return "";
  std::string reason = "its results wait: the program has not taken " +
                       std::to_string(job.held_bytes() >> 20) + " MiB of them";
  const std::uint64_t of_all = job.session->held_blob_bytes + job.session->told_bytes;
  if (job.session->held_limit < limits::kHeldResultBytes) {
    reason += ", and " + std::to_string(of_all >> 20) + " MiB of those of all its jobs";
  }
  return reason;
}

void BlobAccounts::check_invariants() const {
  const SchedulerOptions& options = books_.options();
  for (const auto& [id, session] : books_.sessions()) {
    std::uint64_t charged = 0;
    std::unordered_map<JobKey, std::uint64_t> of_jobs;
    std::uint64_t held_bytes = 0;
    session->blobs.each([&](const BlobId& blob, const BlobTable::Kept& kept) {
      charged += kept.charged_bytes;
      of_jobs[kept.job] += kept.result_bytes;
      held_bytes += kept.result_bytes;
      CHECK(options.blobs == nullptr || options.blobs->holds({blob, kept.size_bytes}));
    });
    CHECK(charged == session->blobs.charged_bytes());
    CHECK(charged <= options.credit_blob_bytes);
    CHECK(held_bytes == session->held_blob_bytes);
    CHECK(session->held_limit ==
          limit_of_each(session->held_blob_bytes + session->told_bytes, session->held_limit));
    for (const auto& [number, job] : session->jobs) {
      CHECK(of_jobs[job->key] == job->held_blob_bytes);
    }
  }
}

}  // namespace muster
