#include "producer/session/submitted_jobs.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/check.hpp"
#include "common/protocol/codec.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

// Appends a range; one that continues the last is merged with it.
void add_range(std::vector<SequenceRange>& ranges, std::uint64_t first, std::uint64_t count) {
  if (count == 0) return;
  if (!ranges.empty() && value(ranges.back().first) + ranges.back().count == first) {
    ranges.back().count += count;
  } else {
    ranges.push_back({TaskSequence{first}, count});
  }
}

// A turn ends after this many SUBMITs, so that a long backlog does not keep the owner from
// listening: about a millisecond of encoding.
constexpr int kBatchesPerTurn = 8;

// Outcomes that the broker keeps although they arrived: far below a session's credit.
constexpr std::size_t kMostOwedOutcomes = 64;
constexpr std::size_t kMostOwedBytes = std::size_t{1} << 20;

// Says `ranges` in as few messages as their limit permits, and empties it.
template <typename Kind>
void say_ranges(JobId id, std::vector<SequenceRange>& ranges, std::vector<Message>& messages) {
  while (ranges.size() > limits::kMaxRuns) {
    const auto cut = ranges.end() - static_cast<std::ptrdiff_t>(limits::kMaxRuns);
    messages.emplace_back(Kind{id, {cut, ranges.end()}});
    ranges.erase(cut, ranges.end());
  }
  if (!ranges.empty()) messages.emplace_back(Kind{id, std::exchange(ranges, {})});
}

}  // namespace

SubmittedJobs::SubmittedJobs(Duration acknowledgement_window, std::size_t most_jobs)
    : acknowledgement_window_(acknowledgement_window),
      most_jobs_(most_jobs),
      cancelled_(failed(OutcomeStatus::cancelled,
                        {"cancelled", "the task was cancelled before it was sent", "", {}})) {}

// --- What the application wants -----------------------------------------------------------------

JobId SubmittedJobs::open(JobSpec spec) {
  const JobId id{++last_job_};
  jobs_[id].spec = std::move(spec);
  return id;
}

SubmittedJobs::Job& SubmittedJobs::open_one(JobId job) {
  const auto found = jobs_.find(job);
  CHECK(found != jobs_.end() && !found->second.ended);
  return found->second;
}

void SubmittedJobs::append(Job& job, Payload&& payload) {
  ++tasks_in_hand_;
  bytes_in_hand_ += payload.bytes.size();
  job.tasks.push({std::move(payload), false, false});
}

TaskSequence SubmittedJobs::submit(JobId job, Payload payload) {
  Job& open = open_one(job);
  const TaskSequence sequence{open.tasks.end()};
  append(open, std::move(payload));
  want_to_send(job, open);
  return sequence;
}

TaskSequence SubmittedJobs::submit(JobId job, std::vector<Payload> payloads) {
  Job& open = open_one(job);
  const TaskSequence first{open.tasks.end()};
  for (Payload& payload : payloads) append(open, std::move(payload));
  want_to_send(job, open);
  return first;
}

void SubmittedJobs::end(JobId job) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  found->second.ended = true;
  want_to_talk(job, found->second);
}

void SubmittedJobs::cancel(JobId job, Delivered& delivered) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  Job& target = found->second;
  const std::uint64_t sent_end = std::max(target.sent_end, target.tasks.begin());
  for (std::uint64_t i = target.tasks.begin(); i < sent_end; ++i) {
    target.tasks[i].cancel = !target.tasks[i].done;
  }
  // What was sent once but waits to be sent again is cancelled right after that (send_batch).
  if (target.next_to_send > target.tasks.begin()) {
    add_range(target.cancels, target.tasks.begin(), target.next_to_send - target.tasks.begin());
  }
  cancel_unsent(job, target, sent_end, target.tasks.end(), delivered);
  want_to_talk(job, target);
}

void SubmittedJobs::cancel(JobId job, TaskSequence sequence, Delivered& delivered) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  Job& target = found->second;
  const std::uint64_t number = value(sequence);
  if (number < target.tasks.begin() || number >= target.tasks.end()) return;
  if (target.tasks[number].done || target.tasks[number].cancel) return;
  if (number >= target.sent_end) {
    cancel_unsent(job, target, number, number + 1, delivered);
  } else {
    target.tasks[number].cancel = true;
    if (number < target.next_to_send) add_range(target.cancels, number, 1);
  }
  want_to_talk(job, target);
}

// A task that no broker ever saw ends here.
void SubmittedJobs::cancel_unsent(JobId id, Job& job, std::uint64_t first, std::uint64_t end,
                                  Delivered& delivered) {
  for (std::uint64_t i = first; i < end; ++i) {
    if (job.tasks[i].done) continue;
    finish(job, i);
    const bool continues = !delivered.empty() && delivered.back().job == id &&
                           value(delivered.back().first) + delivered.back().outcomes.size() == i;
    if (!continues) delivered.push_back({id, TaskSequence{i}, {}});
    delivered.back().outcomes.push_back(cancelled_);
  }
  while (!job.tasks.empty() && job.tasks.front().done) job.tasks.pop_front();
  job.next_to_send = std::max(job.next_to_send, job.tasks.begin());
}

void SubmittedJobs::hold_results(JobId job, std::uint64_t bytes, std::vector<Message>* messages) {
  const auto found = held_results_.find(job);
  const std::uint64_t before = found == held_results_.end() ? 0 : found->second;
  if (bytes == before) return;
  held_result_bytes_ += bytes - before;
  if (bytes == 0) {
    held_results_.erase(found);
  } else {
    held_results_[job] = bytes;
  }
  if (messages != nullptr) say_held(job, bytes, *messages);
}

void SubmittedJobs::say_held(JobId job, std::uint64_t bytes, std::vector<Message>& messages) const {
  messages.emplace_back(message::ResultsHeld{job, bytes, held_result_bytes_});
}

// --- What the broker says -----------------------------------------------------------------------

void SubmittedJobs::set_credit(std::uint64_t tasks, std::uint64_t bytes) {
  credit_tasks_ = tasks;
  credit_bytes_ = bytes;
}

void SubmittedJobs::resume(const std::vector<message::JobProgress>& known,
                           std::vector<Message>& messages) {
  tasks_at_broker_ = bytes_at_broker_ = 0;
  declared_ = 0;
  std::map<JobId, std::uint64_t> listed;
  for (const auto& progress : known) listed[progress.job] = value(progress.next_sequence);
  for (auto& [id, job] : jobs_) {
    const auto found = listed.find(id);
    const bool has = found != listed.end();
    resume_job(id, job, has ? std::optional(found->second) : std::nullopt);
    if (has) listed.erase(found);
  }
  for (const auto& [id, next_sequence] : listed) {  // finished here; the broker did not hear it
    if (!ever_knew(id)) continue;
    if (next_sequence > 0) {
      messages.emplace_back(message::AcknowledgeOutcomes{id, {{TaskSequence{0}, next_sequence}}});
    }
    messages.emplace_back(message::EndJob{id});
  }
}

void SubmittedJobs::say_held_results(std::vector<Message>& messages) const {
  // Of a job that this broker does not know yet: again after JOB.
  for (const auto& [job, bytes] : held_results_) say_held(job, bytes, messages);
}

// `next_sequence`: the broker has the job, and every task before this one.
void SubmittedJobs::resume_job(JobId id, Job& job, std::optional<std::uint64_t> next_sequence) {
  job.declared = next_sequence.has_value();
  if (job.declared) ++declared_;
  job.end_said = false;
  job.acknowledgements.clear();
  job.cancels.clear();
  job.next_to_send = job.tasks.begin();
  if (next_sequence) {
    const std::uint64_t known = std::min(*next_sequence, job.sent_end);
    // The last acknowledgements may be lost, and unacknowledged outcomes use up credit.
    add_range(job.acknowledgements, 0, std::min(known, job.tasks.begin()));
    for (std::uint64_t i = job.tasks.begin(); i < known; ++i) {
      const Task& task = job.tasks[i];
      if (task.done) {
        add_range(job.acknowledgements, i, 1);
        continue;
      }
      ++tasks_at_broker_;
      bytes_at_broker_ += task.payload.bytes.size();
      if (task.cancel) add_range(job.cancels, i, 1);
    }
    job.next_to_send = std::max(known, job.tasks.begin());
  }
  want_to_send(id, job);
  want_to_talk(id, job);
}

void SubmittedJobs::hear(message::Outcomes&& outcomes, Delivered& delivered,
                         std::vector<Message>* messages) {
  const auto found = jobs_.find(outcomes.job);
  if (found != jobs_.end()) {
    want_to_acknowledge(found->first, found->second);
    for (OutcomeRun& run : outcomes.runs)
      accept(found->first, found->second, std::move(run), delivered);
    return;
  }
  if (!ever_knew(outcomes.job) || messages == nullptr) return;
  std::vector<SequenceRange> ranges;  // of a finished job: the acknowledgement was lost
  for (const OutcomeRun& run : outcomes.runs) {
    add_range(ranges, value(run.first), run.outcomes.size());
  }
  if (ranges.empty()) return;
  messages->emplace_back(message::AcknowledgeOutcomes{outcomes.job, std::move(ranges)});
}

void SubmittedJobs::accept(JobId id, Job& job, OutcomeRun&& run, Delivered& delivered) {
  const std::uint64_t first = value(run.first);
  const std::uint64_t end = first + run.outcomes.size();
  if (end > job.sent_end) return;  // tasks that nobody was given
  add_range(job.acknowledgements, first, run.outcomes.size());
  owed_outcomes_ += run.outcomes.size();
  for (const Outcome& outcome : run.outcomes) owed_bytes_ += outcome.body.bytes.size();
  std::uint64_t fresh_first = std::max(first, job.tasks.begin());
  while (fresh_first < end) {
    while (fresh_first < end && job.tasks[fresh_first].done) ++fresh_first;
    std::uint64_t fresh_end = fresh_first;
    while (fresh_end < end && !job.tasks[fresh_end].done) finish(job, fresh_end++);
    if (fresh_end == fresh_first) break;
    DeliveredOutcomes part{id, TaskSequence{fresh_first}, {}};
    if (fresh_end - fresh_first == run.outcomes.size()) {
      part.outcomes = std::move(run.outcomes);
    } else {
      const auto from = run.outcomes.begin() + static_cast<std::ptrdiff_t>(fresh_first - first);
      const auto to = run.outcomes.begin() + static_cast<std::ptrdiff_t>(fresh_end - first);
      part.outcomes.assign(std::make_move_iterator(from), std::make_move_iterator(to));
    }
    delivered.push_back(std::move(part));
    fresh_first = fresh_end;
  }
  while (!job.tasks.empty() && job.tasks.front().done) job.tasks.pop_front();
  job.next_to_send = std::max(job.next_to_send, job.tasks.begin());
}

void SubmittedJobs::finish(Job& job, std::uint64_t sequence) {
  Task& task = job.tasks[sequence];
  const std::size_t size_bytes = task.payload.bytes.size();
  --tasks_in_hand_;
  bytes_in_hand_ -= size_bytes;
  if (sequence < job.next_to_send) {
    --tasks_at_broker_;
    bytes_at_broker_ -= size_bytes;
  }
  task.payload = {};
  task.done = true;
  task.cancel = false;
}

// --- What is said -------------------------------------------------------------------------------

void SubmittedJobs::want_to_talk(JobId id, Job& job) {
  if (std::exchange(job.talking, true)) return;
  talkers_.push_back(id);
}

void SubmittedJobs::want_to_acknowledge(JobId id, Job& job) {
  if (debtors_.empty()) owed_since_ = now_;
  if (std::exchange(job.owing, true)) return;
  debtors_.push_back(id);
}

bool SubmittedJobs::acknowledgements_are_due() const {
  return !debtors_.empty() &&
         (!senders_.empty() || owed_outcomes_ >= kMostOwedOutcomes ||
          owed_bytes_ >= kMostOwedBytes || now_ - owed_since_ >= acknowledgement_window_);
}

void SubmittedJobs::want_to_send(JobId id, Job& job) {
  if (job.all_sent() || std::exchange(job.sending, true)) return;
  senders_.push_back(id);
}

bool SubmittedJobs::credit_allows(std::size_t size_bytes) const {
  if (tasks_at_broker_ >= credit_tasks_) return false;
  return tasks_at_broker_ == 0 || bytes_at_broker_ + size_bytes <= credit_bytes_;
}

// Whether another turn would send tasks now.
bool SubmittedJobs::can_send() const {
  if (may_declare() && !held_back_.empty()) return true;
  if (senders_.empty()) return false;
  const auto found = jobs_.find(senders_.front());
  if (found == jobs_.end() || found->second.all_sent()) return true;  // a turn clears it away
  return credit_allows(found->second.tasks[found->second.next_to_send].payload.bytes.size());
}

Time SubmittedJobs::next_acknowledgement() const {
  return debtors_.empty() ? kNever : owed_since_ + acknowledgement_window_;
}

// Acknowledgements go first: they free the credit that the tasks after them use.
void SubmittedJobs::talk(bool hurry, std::vector<Message>& messages) {
  if (hurry || acknowledgements_are_due()) {
    for (const JobId id : std::exchange(debtors_, {})) {
      const auto found = jobs_.find(id);
      if (found == jobs_.end()) continue;
      found->second.owing = false;
      want_to_talk(id, found->second);
    }
    owed_outcomes_ = 0;
    owed_bytes_ = 0;
  }
  for (const JobId id : std::exchange(talkers_, {})) {
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) continue;
    Job& job = found->second;
    job.talking = false;
    say_ranges<message::AcknowledgeOutcomes>(id, job.acknowledgements, messages);
    say_ranges<message::Cancel>(id, job.cancels, messages);
    settle(found, messages);
  }
}

void SubmittedJobs::hold_back(JobId id, std::vector<message::Notice>& notices) {
  held_back_.push_back(id);
  notices.push_back({id, "this program has " + std::to_string(most_jobs_) +
                             " jobs at the broker, as many as one may have: the job waits for the "
                             "end of another"});
}

// As many as the broker has places for now.
void SubmittedJobs::let_in(std::vector<message::Notice>& notices) {
  std::size_t room = most_jobs_ - declared_;
  while (room > 0 && !held_back_.empty()) {
    const auto found = jobs_.find(held_back_.front());
    held_back_.pop_front();
    if (found == jobs_.end()) continue;  // it was cancelled
    senders_.push_back(found->first);
    notices.push_back({found->first, ""});
    --room;
  }
}

void SubmittedJobs::send(std::vector<Message>& messages, std::vector<message::Notice>& notices) {
  if (may_declare()) let_in(notices);
  for (int turn = 0; turn < kBatchesPerTurn && !senders_.empty(); ++turn) {
    const JobId id = senders_.front();
    const auto found = jobs_.find(id);
    if (found != jobs_.end()) {
      Job& job = found->second;
      const std::uint64_t before = job.next_to_send;
      if (!job.declared && !may_declare()) {
        hold_back(id, notices);
        senders_.pop_front();
        continue;
      }
      send_batch(id, job, messages);
      if (!job.all_sent() && job.next_to_send == before) return;  // the credit is spent
      job.sending = !job.all_sent();
      if (job.sending) senders_.push_back(id);
      settle(found, messages);
    }
    senders_.pop_front();
  }
}

// The next contiguous run of tasks without outcome, as long as batch limits and credit permit.
void SubmittedJobs::send_batch(JobId id, Job& job, std::vector<Message>& messages) {
  std::uint64_t& next = job.next_to_send;
  while (next < job.tasks.end() && job.tasks[next].done) ++next;
  message::Submit submit{id, TaskSequence{next}, {}};
  submit.payloads.reserve(std::min<std::size_t>(limits::kBatchTasks, job.tasks.end() - next));
  std::vector<SequenceRange> cancels;
  std::size_t batch_bytes = 0;
  for (; next < job.tasks.end() && submit.payloads.size() < limits::kBatchTasks; ++next) {
    const Task& task = job.tasks[next];
    const std::size_t size_bytes = task.payload.bytes.size();
    const bool fits = submit.payloads.empty() || batch_bytes + size_bytes <= limits::kBatchBytes;
    if (task.done || !fits || !credit_allows(size_bytes)) break;
    if (task.cancel) cancels.push_back({TaskSequence{next}, 1});
    submit.payloads.push_back(task.payload);
    batch_bytes += size_bytes;
    ++tasks_at_broker_;
    bytes_at_broker_ += size_bytes;
  }
  job.sent_end = std::max(job.sent_end, next);
  if (submit.payloads.empty()) return;
  if (!std::exchange(job.declared, true)) {
    ++declared_;
    messages.emplace_back(message::Job{id, job.spec});
    const auto held = held_results_.find(id);
    if (held != held_results_.end()) say_held(id, held->second, messages);
  }
  messages.emplace_back(std::move(submit));
  say_ranges<message::Cancel>(id, cancels, messages);
}

// Says END_JOB when everything was sent; forgets a job of which nothing is left.
void SubmittedJobs::settle(Jobs::iterator found, std::vector<Message>& messages) {
  Job& job = found->second;
  if (!job.ended || !job.all_sent()) return;
  if (job.declared && !std::exchange(job.end_said, true)) {
    messages.emplace_back(message::EndJob{found->first});
  }
  if (!job.tasks.empty() || !job.acknowledgements.empty()) return;
  if (job.declared) --declared_;  // the broker forgets it when it hears this
  jobs_.erase(found);
}

void SubmittedJobs::check_invariants(bool is_up) const {
  std::uint64_t in_hand = 0;
  std::uint64_t in_hand_bytes = 0;
  std::uint64_t at_broker = 0;
  std::uint64_t at_broker_bytes = 0;
  std::size_t declared = 0;
  for (const auto& [id, job] : jobs_) {
    if (job.declared) ++declared;
    CHECK(value(id) >= 1 && value(id) <= last_job_);
    CHECK(job.next_to_send >= job.tasks.begin());
    CHECK(job.next_to_send <= job.tasks.end());
    CHECK(job.tasks.empty() || !job.tasks[job.tasks.begin()].done);
    CHECK(!is_up || job.all_sent() || job.sending);
    for (std::uint64_t i = job.tasks.begin(); i < job.tasks.end(); ++i) {
      const Task& task = job.tasks[i];
      CHECK(!task.done || task.payload.bytes.empty());
      if (task.done) continue;
      ++in_hand;
      in_hand_bytes += task.payload.bytes.size();
      if (i >= job.next_to_send) continue;
      ++at_broker;
      at_broker_bytes += task.payload.bytes.size();
    }
  }
  CHECK(!is_up || (declared == declared_ && declared_ <= most_jobs_));
  std::uint64_t held_bytes = 0;
  for (const auto& [job, bytes] : held_results_) {
    CHECK(bytes > 0);
    held_bytes += bytes;
  }
  CHECK(held_bytes == held_result_bytes_);
  CHECK(in_hand == tasks_in_hand_ && in_hand_bytes == bytes_in_hand_);
  CHECK(at_broker == tasks_at_broker_ && at_broker_bytes == bytes_at_broker_);
}

}  // namespace muster
