// What a session says: acknowledgements, cancels and ends first, then tasks in batches as the
// credit allows. And its invariants.
#include <algorithm>
#include <utility>

#include "common/check.hpp"
#include "producer/session/session.hpp"

namespace muster {
namespace {

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

void Session::want_to_talk(JobId id, Job& job) {
  if (std::exchange(job.talking, true)) return;
  talkers_.push_back(id);
}

void Session::want_to_acknowledge(JobId id, Job& job) {
  if (debtors_.empty()) owed_since_ = now_;
  if (std::exchange(job.owing, true)) return;
  debtors_.push_back(id);
}

bool Session::acknowledgements_are_due() const {
  return !debtors_.empty() &&
         (!senders_.empty() || !releases_.empty() || owed_outcomes_ >= kMostOwedOutcomes ||
          owed_bytes_ >= kMostOwedBytes || now_ - owed_since_ >= options_.acknowledgement_window);
}

void Session::want_to_send(JobId id, Job& job) {
  if (job.all_sent() || std::exchange(job.sending, true)) return;
  senders_.push_back(id);
}

bool Session::credit_allows(std::size_t size_bytes) const {
  if (tasks_at_broker_ >= credit_tasks_) return false;
  return tasks_at_broker_ == 0 || bytes_at_broker_ + size_bytes <= credit_bytes_;
}

// Whether another turn would say anything now.
bool Session::can_send() const {
  if (link_ != Link::up || closed_) return false;
  if (!talkers_.empty() || acknowledgements_are_due()) return true;
  if (!puts_.empty() || !releases_.empty()) return true;
  if (senders_.empty() || blobs_in_doubt_ > 0) return false;
  const auto found = jobs_.find(senders_.front());
  if (found == jobs_.end() || found->second.all_sent()) return true;  // a turn clears it away
  return credit_allows(found->second.tasks[found->second.next_to_send].payload.bytes.size());
}

std::vector<Message> Session::take_messages() {
  std::vector<Message> messages = std::exchange(messages_, {});
  if (link_ == Link::up && !closed_) {
    talk(messages);
    talk_of_blobs(messages);
    if (blobs_in_doubt_ == 0) send_tasks(messages);
  }
  if (closed_ && !std::exchange(goodbye_said_, true) && link_lives() && greeted_) {
    messages.emplace_back(message::Goodbye{});
  }
  if (!messages.empty()) said_ = now_;
  return messages;
}

// Acknowledgements go first: they free the credit that the tasks after them use.
void Session::talk(std::vector<Message>& messages) {
  if (acknowledgements_are_due()) {
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

void Session::send_tasks(std::vector<Message>& messages) {
  for (int turn = 0; turn < kBatchesPerTurn && !senders_.empty(); ++turn) {
    const JobId id = senders_.front();
    const auto found = jobs_.find(id);
    if (found != jobs_.end()) {
      Job& job = found->second;
      const std::uint64_t before = job.next_to_send;
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
void Session::send_batch(JobId id, Job& job, std::vector<Message>& messages) {
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
    messages.emplace_back(message::Job{id, job.spec});
    const auto held = held_results_.find(id);
    if (held != held_results_.end()) say_held(id, held->second, messages);
  }
  messages.emplace_back(std::move(submit));
  say_ranges<message::Cancel>(id, cancels, messages);
}

// Says END_JOB when everything was sent; forgets a job of which nothing is left.
void Session::settle(Jobs::iterator found, std::vector<Message>& messages) {
  Job& job = found->second;
  if (!job.ended || !job.all_sent()) return;
  if (job.declared && !std::exchange(job.end_said, true)) {
    messages.emplace_back(message::EndJob{found->first});
  }
  if (job.tasks.empty() && job.acknowledgements.empty()) jobs_.erase(found);
}

void Session::check_invariants() const {
  std::uint64_t in_hand = 0;
  std::uint64_t in_hand_bytes = 0;
  std::uint64_t at_broker = 0;
  std::uint64_t at_broker_bytes = 0;
  for (const auto& [id, job] : jobs_) {
    CHECK(value(id) >= 1 && value(id) <= last_job_);
    CHECK(job.next_to_send >= job.tasks.begin());
    CHECK(job.next_to_send <= job.tasks.end());
    CHECK(job.tasks.empty() || !job.tasks[job.tasks.begin()].done);
    CHECK(link_ != Link::up || job.all_sent() || job.sending);
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
  std::size_t in_doubt = 0;
  for (const auto& [id, blob] : blobs_) {
    CHECK(blob.source.name.id == id);
    if (blob.in_doubt) ++in_doubt;
  }
  std::uint64_t held_bytes = 0;
  for (const auto& [job, bytes] : held_results_) {
    CHECK(bytes > 0);
    held_bytes += bytes;
  }
  CHECK(held_bytes == held_result_bytes_);
  CHECK(in_doubt == blobs_in_doubt_);
  CHECK(released_asked_ <= released_.size());
  CHECK(in_hand == tasks_in_hand_ && in_hand_bytes == bytes_in_hand_);
  CHECK(at_broker == tasks_at_broker_ && at_broker_bytes == bytes_at_broker_);
}

}  // namespace muster
