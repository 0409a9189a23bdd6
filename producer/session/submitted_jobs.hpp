// The jobs that an application submitted: their tasks until each has its outcome, what the broker
// has of them, and what to say of them next: acknowledgements, cancels and ends first, then tasks
// in batches as the credit allows. Owned by the session. Pure; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "producer/session/ring.hpp"

namespace muster {

// Outcomes of tasks `first`, `first` + 1, …; each sequence of a job appears at most once, ever.
struct DeliveredOutcomes {
  JobId job{};
  TaskSequence first{};
  std::vector<Outcome> outcomes;
};

class SubmittedJobs {
 public:
  using Delivered = std::vector<DeliveredOutcomes>;

  // Acknowledgements wait for tasks to send, so long at most. `most_jobs`: a broker refuses a
  // session with more that have not ended, so those beyond are held back until others have.
  SubmittedJobs(Duration acknowledgement_window, std::size_t most_jobs);

  // The time of all that follows, until the next call.
  void set_now(Time now) { now_ = now; }

  // --- What the application wants. `job` is one that open() returned; one that has ended or is
  // unknown is a bug of the caller (CHECK), but may be cancelled.
  JobId open(JobSpec spec);
  TaskSequence submit(JobId job, Payload payload);
  // The sequence of the first. Precondition: not empty.
  TaskSequence submit(JobId job, std::vector<Payload> payloads);
  void end(JobId job);
  // Appends the outcomes of tasks that no broker ever saw.
  void cancel(JobId job, Delivered& delivered);
  void cancel(JobId job, TaskSequence sequence, Delivered& delivered);
  // So many bytes of its results are not consumed. Says so at once if `messages` is not null.
  void hold_results(JobId job, std::uint64_t bytes, std::vector<Message>* messages);

  // --- What the broker says
  void set_credit(std::uint64_t tasks, std::uint64_t bytes);
  // After a WELCOME that lists these jobs; say_held_results() is to follow.
  void resume(const std::vector<message::JobProgress>& known, std::vector<Message>& messages);
  void say_held_results(std::vector<Message>& messages) const;
  // `messages`: null when nothing may be said now.
  void hear(message::Outcomes&& outcomes, Delivered& delivered, std::vector<Message>* messages);

  // --- What follows
  bool has_talk() const { return !talkers_.empty() || acknowledgements_are_due(); }
  bool can_send() const;
  Time next_acknowledgement() const;  // kNever: none is owed
  // `hurry`: also acknowledgements that may wait.
  void talk(bool hurry, std::vector<Message>& messages);
  // Appends notices of jobs that are held back, and empty ones of those that are no longer.
  void send(std::vector<Message>& messages, std::vector<message::Notice>& notices);

  bool knows(JobId job) const { return jobs_.count(job) != 0; }
  bool ever_knew(JobId job) const { return value(job) >= 1 && value(job) <= last_job_; }
  std::size_t count() const { return jobs_.size(); }
  std::uint64_t tasks_in_hand() const { return tasks_in_hand_; }
  std::uint64_t bytes_in_hand() const { return bytes_in_hand_; }
  std::uint64_t tasks_at_broker() const { return tasks_at_broker_; }
  std::uint64_t bytes_at_broker() const { return bytes_at_broker_; }

  // CHECKs that the tables do not contradict each other; `is_up`: the broker said WELCOME.
  void check_invariants(bool is_up) const;

 private:
  struct Task {
    Payload payload;  // released with its outcome
    bool done = false;
    bool cancel = false;  // was sent and is to be cancelled
  };
  struct Job {
    JobSpec spec;
    Ring<Task> tasks;                // begins at the oldest task without outcome
    std::uint64_t next_to_send = 0;  // tasks before it are at the broker
    std::uint64_t sent_end = 0;      // the greatest next_to_send ever
    std::vector<SequenceRange> acknowledgements;
    std::vector<SequenceRange> cancels;
    bool declared = false;  // JOB was said on this link
    bool ended = false;     // no more submits
    bool end_said = false;  // END_JOB was said on this link
    bool talking = false;   // in talkers_
    bool owing = false;     // in debtors_
    bool sending = false;   // in senders_ or held_back_
    bool all_sent() const { return next_to_send == tasks.end(); }
  };
  using Jobs = std::map<JobId, Job>;

  Job& open_one(JobId job);
  void append(Job& job, Payload&& payload);
  void want_to_talk(JobId id, Job& job);
  void want_to_acknowledge(JobId id, Job& job);
  bool acknowledgements_are_due() const;
  void want_to_send(JobId id, Job& job);
  bool credit_allows(std::size_t size_bytes) const;
  void say_held(JobId job, std::uint64_t bytes, std::vector<Message>& messages) const;
  void resume_job(JobId id, Job& job, std::optional<std::uint64_t> next_sequence);
  void accept(JobId id, Job& job, OutcomeRun&& run, Delivered& delivered);
  void finish(Job& job, std::uint64_t sequence);
  void cancel_unsent(JobId id, Job& job, std::uint64_t first, std::uint64_t end,
                     Delivered& delivered);
  bool may_declare() const { return declared_ < most_jobs_; }
  void hold_back(JobId id, std::vector<message::Notice>& notices);
  void let_in(std::vector<message::Notice>& notices);
  void send_batch(JobId id, Job& job, std::vector<Message>& messages);
  void settle(Jobs::iterator job, std::vector<Message>& messages);

  const Duration acknowledgement_window_;
  const std::size_t most_jobs_;
  Time now_{0};
  Jobs jobs_;
  std::uint32_t last_job_ = 0;
  std::vector<JobId> talkers_;   // have something else than tasks to say
  std::deque<JobId> senders_;    // have tasks to send, in turn
  std::deque<JobId> held_back_;  // the same of jobs that the broker has no place for
  std::size_t declared_ = 0;     // jobs that the broker has
  std::vector<JobId> debtors_;   // have outcomes to acknowledge
  Time owed_since_{0};
  std::size_t owed_outcomes_ = 0;
  std::size_t owed_bytes_ = 0;
  std::uint64_t credit_tasks_ = 0;
  std::uint64_t credit_bytes_ = 0;
  std::uint64_t tasks_at_broker_ = 0;
  std::uint64_t bytes_at_broker_ = 0;
  std::uint64_t tasks_in_hand_ = 0;
  std::uint64_t bytes_in_hand_ = 0;
  std::map<JobId, std::uint64_t> held_results_;  // bytes; none is 0
  std::uint64_t held_result_bytes_ = 0;          // of them all
  Outcome cancelled_;  // what a task ends in that was cancelled before it was sent
};

}  // namespace muster
