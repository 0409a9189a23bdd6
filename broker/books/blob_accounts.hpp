// Who keeps which blobs: those that producers announce, those of outcomes, and how much of their
// results a job's program has not consumed. Changes the counters of blobs, which are in the books.
// Where tasks run that name blobs is decided in broker/placement. Pure but for BlobFiles.
//
// A job holds the blobs of its outcomes that its producer has not released and what is on its way,
// which are counted here, and what its program has received and not consumed, which the producer
// says (RESULTS_HELD). It gets no leases beyond what it may hold: 256 MiB, or what is left of the
// 1 GiB of its session when several jobs hold much. Each may hold a little in any case: a program
// that waits for one job while nobody reads the others gets its results.
#pragma once

#include <cstdint>
#include <string>

#include "broker/books/books.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class BlobAccounts {
 public:
  explicit BlobAccounts(Books& books) : books_(books) {}
  BlobAccounts(const BlobAccounts&) = delete;
  BlobAccounts& operator=(const BlobAccounts&) = delete;

  // --- Blobs that a session keeps
  // It announces these: what to answer.
  message::BlobAnswers put(SessionRecord& session, const message::BlobPut& put);
  void release(SessionRecord& session, const message::BlobRelease& released);
  // It has ended: nothing is kept for it any more.
  void end_session(SessionRecord& session);
  // Of `all` bytes, those that one session of this user may keep.
  static std::uint64_t credit(const LocalUser& who, std::uint64_t all);

  // --- Blobs of outcomes
  // Why a task of this payload cannot run, or an outcome cannot be told; empty: the broker has all
  // of its blobs.
  std::string lost_blob(const Payload& payload) const;
  // The session keeps the blobs of this outcome from now on, until it releases them. `counted`:
  // they are counted as the job's results as well.
  void keep_outcome(JobRecord& job, const Payload& body, bool counted);
  // An outcome that came while its producer was away, and that nobody waits for: its blobs are kept
  // no longer, unless the producer has said since that it needs them.
  void release_stale(SessionRecord& session, const Outcome& outcome);

  // --- Results that programs have not consumed
  // A task of the job has ended so.
  void count_result(JobRecord& job, OutcomeStatus status, const Payload& body);
  // What the program holds of a job's results, and of all of them; of a job that has ended, too.
  void hold_results(SessionRecord& session, const message::ResultsHeld& held);
  // Call now and then: whether the job's program takes any.
  void review_results(JobRecord& job, Time now);
  // Why they keep the job from getting leases; empty: they do not.
  static std::string held_reason(const JobRecord& job);

  // Aborts if the accounts do not add up. O(everything).
  void check_invariants() const;

 private:
  std::string put_one(SessionRecord& session, const BlobSource& source, BlobState& state);
  std::string beyond_session(const SessionRecord& session, std::uint64_t charged) const;
  std::string beyond_user(const SessionRecord& session, std::uint64_t charged) const;
  void release_one(SessionRecord& session, const BlobId& id);
  void release_result(SessionRecord& session, JobKey key, std::uint64_t size_bytes);
  void review_limits(SessionRecord& session);

  Books& books_;
};

}  // namespace muster
