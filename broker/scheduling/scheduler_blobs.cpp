// Who keeps which blobs: those that producers announce, those of outcomes, and what happens to a
// task whose blobs are not here. Where tasks run that name blobs: scheduler_place.cpp.
#include <algorithm>
#include <utility>

#include "broker/books/blob_files.hpp"
#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"
#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"

namespace muster {
namespace {

// Blobs that one session keeps: 16 GiB in the smallest ones.
constexpr std::size_t kMaxSessionBlobs = 262'144;

}  // namespace

void Scheduler::put_blobs(SessionRecord& session, const message::BlobPut& put) {
  message::BlobAnswers answers;
  answers.blobs.reserve(put.blobs.size());
  for (const BlobSource& source : put.blobs) {
    BlobAnswer answer{source.name.id};
    answer.text = put_blob(session, source, answer.state);
    answers.blobs.push_back(std::move(answer));
  }
  send(session.peer, std::move(answers));
}

// Returns why it was refused; empty: see `state`.
std::string Scheduler::put_blob(SessionRecord& session, const BlobSource& source,
                                BlobState& state) {
  state = BlobState::refused;
  BlobFiles* const files = options_.blobs;
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
  BlobTable::Kept* kept = session.blobs.find(source.name.id);
  const std::uint64_t charged =
      source.place == BlobPlace::file ? 0 : std::max<std::uint64_t>(source.name.size_bytes, 1);
  if (kept == nullptr) {
    if (session.blobs.size() >= kMaxSessionBlobs) {
      return "more than " + std::to_string(kMaxSessionBlobs) +
             " blobs at once; release some, or use fewer and larger ones";
    }
    // What is kept in the place where a user put it does not count, nor is it our room.
    if (charged > options_.credit_blob_bytes -
                      std::min(options_.credit_blob_bytes, session.blobs.charged_bytes())) {
      return "this program keeps " + std::to_string(session.blobs.charged_bytes()) +
             " bytes of blobs here already, of " + std::to_string(options_.credit_blob_bytes) +
             " that it may; release some, or raise --blob-memory or --blob-disk of the broker";
    }
    std::string beyond = beyond_user(session, charged);
    if (!beyond.empty()) return beyond;
    if (files != nullptr) files->pin(source.name.id);
    count_kept(session,
               session.blobs.keep(source.name.id, {source.name.size_bytes, charged, false, {}, 0}));
    ++counters_["blobs_put"];
  } else {
    kept->is_result = false;  // of which it is an argument now
  }
  state = BlobState::here;
  return "";
}

void Scheduler::release_blobs(SessionRecord& session, const message::BlobRelease& released) {
  for (const BlobId& id : released.blobs) release_blob(session, id);
}

void Scheduler::release_blob(SessionRecord& session, const BlobId& id) {
  const auto kept = session.blobs.release(id);
  if (!kept) return;
  count_released(session, *kept);
  if (options_.blobs != nullptr) options_.blobs->unpin(id, !kept->is_result);
  if (kept->result_bytes > 0) release_result(session, kept->job, kept->result_bytes);
}

// An outcome that came while its producer was away, and that nobody waits for: its blobs are kept
// no longer, unless the producer has said since that it needs them.
void Scheduler::release_stale(SessionRecord& session, const Outcome& outcome) {
  for (std::uint32_t i = 0; i < outcome.body.blobs; ++i) {
    const BlobId id = blob_at(outcome.body, i).id;
    const BlobTable::Kept* kept = session.blobs.find(id);
    if (kept != nullptr && kept->is_result && kept->result_bytes == 0) release_blob(session, id);
  }
}

void Scheduler::end_session_blobs(SessionRecord& session) {
  session.blobs.each(
      [&](const BlobId&, const BlobTable::Kept& kept) { count_released(session, kept); });
  if (options_.blobs == nullptr) return;
  session.blobs.each([&](const BlobId& id, const BlobTable::Kept& kept) {
    options_.blobs->unpin(id, !kept.is_result);
  });
  session.blobs = {};
  options_.blobs->clear_incoming(to_hex(session.id));
}

// Why a task of this payload cannot run; empty: the broker has all of its blobs.
std::string Scheduler::lost_blob(const Payload& payload) const {
  if (options_.blobs == nullptr) return "";
  for (std::uint32_t i = 0; i < payload.blobs; ++i) {
    const BlobName name = blob_at(payload, i);
    if (options_.blobs->holds(name)) continue;
    return "blob " + to_hex(name.id) + " (" + std::to_string(name.size_bytes) +
           " bytes) is not at the broker: it was released before its tasks were done, or the "
           "broker's folders were emptied; submit the task again with its data";
  }
  return "";
}

// Ends a task that was just submitted and cannot run, because its blobs or those of its job's body
// are not here.
void Scheduler::end_if_lost(JobRecord& job, std::uint64_t sequence, TaskRecord& task) {
  if (task.state != TaskState::queued) return;
  std::string reason = lost_blob(job.spec.function.body);
  if (reason.empty()) reason = lost_blob(task.data);
  if (reason.empty()) return;
  ++counters_["tasks_without_blobs"];
  job.unqueue(sequence);
  fail_task(job, sequence, task, OutcomeStatus::error, {"blob_lost", std::move(reason), "", {}});
}

// The outcome as it can be told: a result whose blobs did not arrive is none.
void Scheduler::check_outcome_blobs(Outcome& outcome) {
  std::string reason = lost_blob(outcome.body);
  if (reason.empty()) return;
  ++counters_["outcomes_without_blobs"];
  outcome = failed(OutcomeStatus::error,
                   {"blob_lost", "the result came without its data: " + std::move(reason), "", {}});
}

// The session keeps the blobs of this outcome from now on, until it releases them. `counted`: they
// are counted as the job's results as well.
void Scheduler::keep_outcome_blobs(JobRecord& job, const Outcome& outcome, bool counted) {
  BlobFiles* const files = options_.blobs;
  for (std::uint32_t i = 0; i < outcome.body.blobs; ++i) {
    const BlobName name = blob_at(outcome.body, i);
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

// --- For whoever moves the bytes ----------------------------------------------------------------

std::optional<Scheduler::WorkerName> Scheduler::worker_at(PeerId peer) const {
  const auto found = peers_.find(peer);
  if (found == peers_.end() || found->second.worker == kNoWorker) return std::nullopt;
  const WorkerRecord& worker = const_cast<WorkerTable&>(workers_).at(found->second.worker);
  return WorkerName{worker.hello.worker, worker.user, worker.shares};
}

std::optional<Scheduler::WorkerName> Scheduler::worker_named(const WorkerId& id) const {
  const WorkerIndex index = workers_.find(id);
  if (index == kNoWorker) return std::nullopt;
  const WorkerRecord& worker = const_cast<WorkerTable&>(workers_).at(index);
  return WorkerName{id, worker.user, worker.shares};
}

void Scheduler::deliver(const WorkerId& worker, message::WorkerOutcomes&& said, Time now) {
  const WorkerIndex index = workers_.find(worker);
  if (index != kNoWorker) outcomes(index, std::move(said), now);
}

bool Scheduler::knows(PeerId peer) const {
  const auto found = peers_.find(peer);
  return found != peers_.end() && found->second.kind != PeerKind::told_unknown;
}

bool Scheduler::expects_outcome(const WorkerId& worker, const SessionId& session, JobId job_id,
                                TaskSequence sequence, Attempt attempt) const {
  const WorkerIndex index = workers_.find(worker);
  const auto found = sessions_.find(session);
  if (index == kNoWorker) return false;
  if (found == sessions_.end()) return reports_.holds(index, session, job_id, sequence, attempt);
  const auto job = found->second->jobs.find(value(job_id));
  if (job == found->second->jobs.end()) return false;
  const auto adopted = job->second->adopted.find(value(sequence));
  if (adopted != job->second->adopted.end() && adopted->second.worker == index) {
    return adopted->second.attempt == attempt && !adopted->second.outcome;
  }
  const TaskRecord* task = job->second->find(value(sequence));
  if (task == nullptr || task->attempts_made == 0 || task->current_attempt() != attempt) {
    return false;
  }
  return (task->state == TaskState::leased && task->worker == index) ||
         (task->state == TaskState::queued && task->out_of_sight);
}

void Scheduler::refuse_bulk(PeerId peer, message::RefuseCode code, std::string text, Time now) {
  peers_[peer].last_heard = now;
  refuse(peer, code, std::move(text));
}

void Scheduler::check_blobs() const {
  for (const auto& [id, session] : sessions_) {
    std::uint64_t charged = 0;
    session->blobs.each([&](const BlobId& blob, const BlobTable::Kept& kept) {
      charged += kept.charged_bytes;
      CHECK(options_.blobs == nullptr || options_.blobs->holds({blob, kept.size_bytes}));
    });
    CHECK(charged == session->blobs.charged_bytes());
    CHECK(charged <= options_.credit_blob_bytes);
  }
}

}  // namespace muster
