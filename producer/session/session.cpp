#include "producer/session/session.hpp"

#include <algorithm>
#include <utility>

#include "common/check.hpp"
#include "common/printable.hpp"
#include "common/protocol/codec.hpp"

namespace muster {
namespace {

// Messages that cannot be read, each within `kUnreadableMemory` of the one before: a broker that
// says the same thing again will do so once more.
constexpr int kMostUnreadable = 3;
constexpr Duration kUnreadableMemory = std::chrono::minutes(1);

// Appends a range; one that continues the last is merged with it.
void add_range(std::vector<SequenceRange>& ranges, std::uint64_t first, std::uint64_t count) {
  if (count == 0) return;
  if (!ranges.empty() && value(ranges.back().first) + ranges.back().count == first) {
    ranges.back().count += count;
  } else {
    ranges.push_back({TaskSequence{first}, count});
  }
}

}  // namespace

Session::Session(SessionOptions options)
    : options_(std::move(options)),
      cancelled_(failed(OutcomeStatus::cancelled,
                        {"cancelled", "the task was cancelled before it was sent", "", {}})) {}

// --- What the application wants

JobId Session::open_job(JobSpec spec) {
  const JobId id{++last_job_};
  jobs_[id].spec = std::move(spec);
  return id;
}

Session::Job& Session::open_one(JobId job) {
  const auto found = jobs_.find(job);
  CHECK(found != jobs_.end() && !found->second.ended);
  return found->second;
}

void Session::append(Job& job, Payload&& payload) {
  ++tasks_in_hand_;
  bytes_in_hand_ += payload.bytes.size();
  job.tasks.push({std::move(payload), false, false});
}

TaskSequence Session::submit(JobId job, Payload payload) {
  Job& open = open_one(job);
  const TaskSequence sequence{open.tasks.end()};
  append(open, std::move(payload));
  want_to_send(job, open);
  return sequence;
}

TaskSequence Session::submit(JobId job, std::vector<Payload> payloads) {
  Job& open = open_one(job);
  const TaskSequence first{open.tasks.end()};
  for (Payload& payload : payloads) append(open, std::move(payload));
  want_to_send(job, open);
  return first;
}

void Session::end_job(JobId job) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  found->second.ended = true;
  want_to_talk(job, found->second);
}

void Session::cancel(JobId job) {
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
  cancel_unsent(job, target, sent_end, target.tasks.end());
  want_to_talk(job, target);
}

void Session::cancel(JobId job, TaskSequence sequence) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  Job& target = found->second;
  const std::uint64_t number = value(sequence);
  if (number < target.tasks.begin() || number >= target.tasks.end()) return;
  if (target.tasks[number].done || target.tasks[number].cancel) return;
  if (number >= target.sent_end) {
    cancel_unsent(job, target, number, number + 1);
  } else {
    target.tasks[number].cancel = true;
    if (number < target.next_to_send) add_range(target.cancels, number, 1);
  }
  want_to_talk(job, target);
}

// A task that no broker ever saw ends here.
void Session::cancel_unsent(JobId id, Job& job, std::uint64_t first, std::uint64_t end) {
  for (std::uint64_t i = first; i < end; ++i) {
    if (job.tasks[i].done) continue;
    finish(job, i);
    auto& delivered = events_.delivered;
    const bool continues = !delivered.empty() && delivered.back().job == id &&
                           value(delivered.back().first) + delivered.back().outcomes.size() == i;
    if (!continues) delivered.push_back({id, TaskSequence{i}, {}});
    delivered.back().outcomes.push_back(cancelled_);
  }
  while (!job.tasks.empty() && job.tasks.front().done) job.tasks.pop_front();
  job.next_to_send = std::max(job.next_to_send, job.tasks.begin());
}

void Session::request_status() {
  if (status_wanted_) return;
  status_wanted_ = true;
  if (link_ == Link::up) messages_.emplace_back(message::StatusRequest{});
}

void Session::hold_results(JobId job, std::uint64_t bytes) {
  const auto found = held_results_.find(job);
  const std::uint64_t before = found == held_results_.end() ? 0 : found->second;
  if (bytes == before) return;
  held_result_bytes_ += bytes - before;
  if (bytes == 0) {
    held_results_.erase(found);
  } else {
    held_results_[job] = bytes;
  }
  if (link_ == Link::up) say_held(job, bytes, messages_);
}

void Session::say_held(JobId job, std::uint64_t bytes, std::vector<Message>& messages) const {
  messages.emplace_back(message::ResultsHeld{job, bytes, held_result_bytes_});
}

void Session::close() { closed_ = true; }

// --- What happens on the link

void Session::connected(Time now) {
  now_ = connected_ = now;
  if (!heard_) heard_ = now;
  if (link_ == Link::refused || closed_) return;
  say_hello();
}

void Session::say_hello() {
  link_ = Link::waiting;
  greeted_ = true;
  messages_.clear();
  messages_.emplace_back(message::HelloProducer{limits::kProtocolVersion, MUSTER_VERSION,
                                                options_.session, options_.label,
                                                incarnation_.has_value()});
}

void Session::receive(Message&& message, Time now) {
  now_ = now;
  if (!link_lives() || !greeted_ || closed_) return;
  heard_ = now;
  std::visit([this]<typename Kind>(Kind&& kind) { on(std::forward<Kind>(kind)); },
             std::move(message));
}

void Session::receive_unreadable(const std::string& reason, Time now) {
  now_ = now;
  if (!link_lives() || !greeted_ || closed_) return;
  heard_ = now;
  if (now - unreadable_at_ > kUnreadableMemory) unreadable_ = 0;
  unreadable_at_ = now;
  const bool is_last = ++unreadable_ >= kMostUnreadable;
  give_up(is_last ? Link::refused : Link::silent);
  events_.unreadable = Unreadable{printable_line(reason), is_last};
}

void Session::give_up(Link link) {
  link_ = link;
  greeted_ = false;
  messages_.clear();
}

void Session::on(message::Welcome&& welcome) {
  if (welcome.protocol_version != limits::kProtocolVersion) {
    on(message::Refuse{message::RefuseCode::version,
                       "the broker speaks another protocol version; install muster " +
                           welcome.software_version + " here"});
    return;
  }
  const bool again = link_ == Link::up && incarnation_ == welcome.incarnation;
  take_settings(welcome);
  if (!again) resume(welcome);  // the answer to a second HELLO on one connection says nothing new
}

void Session::take_settings(const message::Welcome& welcome) {
  // Bounded: a broker's mistake must not make this session spin or never notice a silence.
  heartbeat_interval_ = std::clamp<Duration>(welcome.heartbeat_interval,
                                             std::chrono::milliseconds(10), std::chrono::hours(1));
  heartbeat_misses_ = std::clamp(welcome.heartbeat_misses, 1U, 1000U);
  credit_tasks_ = welcome.credit_tasks;
  credit_bytes_ = welcome.credit_bytes;
  pack_ = welcome.pack;
  events_.blob_terms = BlobTerms{welcome.blob_folders, welcome.blob_token,
                                 welcome.credit_blob_bytes, welcome.credit_memory_bytes};
}

void Session::resume(const message::Welcome& welcome) {
  link_ = Link::up;
  const bool is_new = incarnation_ != welcome.incarnation;
  incarnation_ = welcome.incarnation;
  resume_store_names();
  tasks_at_broker_ = bytes_at_broker_ = 0;
  std::map<JobId, std::uint64_t> listed;
  for (const auto& progress : welcome.jobs) listed[progress.job] = value(progress.next_sequence);
  for (auto& [id, job] : jobs_) {
    const auto found = listed.find(id);
    const bool has = found != listed.end();
    resume_job(id, job, has ? std::optional(found->second) : std::nullopt);
    if (has) listed.erase(found);
  }
  for (const auto& [id, next_sequence] : listed) {  // finished here; the broker did not hear it
    if (value(id) == 0 || value(id) > last_job_) continue;
    if (next_sequence > 0) {
      messages_.emplace_back(message::AcknowledgeOutcomes{id, {{TaskSequence{0}, next_sequence}}});
    }
    messages_.emplace_back(message::EndJob{id});
  }
  if (status_wanted_) messages_.emplace_back(message::StatusRequest{});
  resume_nodes(is_new);
  resume_blobs(is_new);
  resume_stores();
  // Of a job that this broker does not know yet: again after JOB.
  for (const auto& [job, bytes] : held_results_) say_held(job, bytes, messages_);
}

// `next_sequence`: the broker has the job, and every task before this one.
void Session::resume_job(JobId id, Job& job, std::optional<std::uint64_t> next_sequence) {
  job.declared = next_sequence.has_value();
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

void Session::on(message::Refuse&& refuse) {
  link_ = Link::refused;
  messages_.clear();
  events_.refused = printable(refuse.text);
}

// While an answer to HELLO is awaited this answers something older: WELCOME follows.
void Session::on(message::Unknown&&) {
  if (link_ == Link::up) say_hello();
}

void Session::on(message::Heartbeat&& heartbeat) {
  if (heartbeat.reply_wanted && link_ == Link::up) {
    messages_.emplace_back(message::Heartbeat{heartbeat.token, false});
  } else if (!heartbeat.reply_wanted) {
    confirm_releases(heartbeat.token);
  }
}

void Session::on(message::Credit&& credit) {
  credit_tasks_ = credit.tasks;
  credit_bytes_ = credit.bytes;
}

void Session::on(message::Notice&& notice) {
  if (jobs_.count(notice.job) == 0) return;
  notice.text = printable(notice.text);  // it may quote nodes
  events_.notices.push_back(std::move(notice));
}

void Session::on(message::Status&& status) {
  if (!status_wanted_) return;
  status_wanted_ = false;
  events_.status = std::move(status);
}

// Of a job that ended meanwhile too: its last lines are often the ones that say why.
void Session::on(message::Output&& output) {
  if (value(output.job) == 0 || value(output.job) > last_job_) return;
  output.node = printable_line(output.node);  // part of what is shown before each line
  events_.outputs.push_back(std::move(output));
}

void Session::on(message::Outcomes&& outcomes) {
  const auto found = jobs_.find(outcomes.job);
  if (found != jobs_.end()) {
    want_to_acknowledge(found->first, found->second);
    for (OutcomeRun& run : outcomes.runs) accept(found->first, found->second, std::move(run));
    return;
  }
  if (value(outcomes.job) == 0 || value(outcomes.job) > last_job_ || link_ != Link::up) return;
  std::vector<SequenceRange> ranges;  // of a finished job: the acknowledgement was lost
  for (const OutcomeRun& run : outcomes.runs) {
    add_range(ranges, value(run.first), run.outcomes.size());
  }
  if (ranges.empty()) return;
  messages_.emplace_back(message::AcknowledgeOutcomes{outcomes.job, std::move(ranges)});
}

void Session::accept(JobId id, Job& job, OutcomeRun&& run) {
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
    Delivered delivered{id, TaskSequence{fresh_first}, {}};
    if (fresh_end - fresh_first == run.outcomes.size()) {
      delivered.outcomes = std::move(run.outcomes);
    } else {
      const auto from = run.outcomes.begin() + static_cast<std::ptrdiff_t>(fresh_first - first);
      const auto to = run.outcomes.begin() + static_cast<std::ptrdiff_t>(fresh_end - first);
      delivered.outcomes.assign(std::make_move_iterator(from), std::make_move_iterator(to));
    }
    keep_blobs_of(delivered.outcomes);
    events_.delivered.push_back(std::move(delivered));
    fresh_first = fresh_end;
  }
  while (!job.tasks.empty() && job.tasks.front().done) job.tasks.pop_front();
  job.next_to_send = std::max(job.next_to_send, job.tasks.begin());
}

void Session::finish(Job& job, std::uint64_t sequence) {
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

void Session::tick(Time now) {
  now_ = now;
  if (!heard_) heard_ = now;
  if (!link_lives() || !greeted_ || closed_) return;
  if (now - std::max(*heard_, connected_) >= longest_silence()) {
    give_up(Link::silent);
  } else if (link_ == Link::up && now - said_ >= heartbeat_interval_) {
    messages_.emplace_back(message::Heartbeat{});
  }
}

Time Session::next_deadline() const {
  if (!messages_.empty() || can_send()) return now_;
  if (!link_lives() || !greeted_ || closed_) return kNever;
  const Time silence = std::max(*heard_, connected_) + longest_silence();
  if (link_ != Link::up) return silence;
  const Time owed = debtors_.empty() ? kNever : owed_since_ + options_.acknowledgement_window;
  return std::min({silence, said_ + heartbeat_interval_, owed});
}

Session::Events Session::take_events() { return std::exchange(events_, {}); }

}  // namespace muster
