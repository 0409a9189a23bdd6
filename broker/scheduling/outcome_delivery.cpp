#include "broker/scheduling/outcome_delivery.hpp"

#include <algorithm>
#include <utility>

namespace muster {

void OutcomeDelivery::add(JobRecord& job, std::uint64_t sequence) {
  if (job.ready.empty()) ready_jobs_.push_back(job.key);
  job.ready.push_back(sequence);
}

void OutcomeDelivery::resend(JobRecord& job) {
  job.ready.clear();
  job.each([&](std::uint64_t sequence, const TaskRecord& task) {
    if (task.state == TaskState::ended) job.ready.push_back(sequence);
  });
  if (!job.ready.empty()) ready_jobs_.push_back(job.key);
  if (!job.waiting.empty()) notice(job, std::exchange(job.waiting, {}));
}

void OutcomeDelivery::flush() {
  for (const JobKey key : std::exchange(ready_jobs_, {})) {
    if (JobRecord* job = books_.find_job(key)) flush(*job);
  }
}

void OutcomeDelivery::flush(JobRecord& job) {
  std::vector<std::uint64_t> ready = std::exchange(job.ready, {});
  if (!job.session->present || ready.empty()) return;  // HELLO sends them again
  if (!std::is_sorted(ready.begin(), ready.end())) std::sort(ready.begin(), ready.end());
  message::Outcomes message{job.id, {}};
  std::size_t count = 0;
  std::size_t bytes = 0;
  for (const std::uint64_t sequence : ready) {
    const TaskRecord* task = job.find(sequence);
    if (task == nullptr || task->state != TaskState::ended) continue;
    const Attempt attempt{task->attempts_made == 0 ? 0 : task->attempts_made - 1};
    if (message.runs.empty() || message.runs.back().attempt != attempt ||
        value(message.runs.back().first) + message.runs.back().outcomes.size() != sequence) {
      message.runs.push_back({TaskSequence{sequence}, attempt, {}});
      if (message.runs.size() == 1) {
        message.runs[0].outcomes.reserve(std::min(ready.size(), limits::kBatchTasks));
      }
    }
    message.runs.back().outcomes.push_back({task->status, task->data});
    bytes += task->data.bytes.size();
    if (++count >= limits::kBatchTasks || bytes >= limits::kBatchBytes) {
      out_.send(job.session->peer, std::exchange(message, message::Outcomes{job.id, {}}));
      count = bytes = 0;
    }
  }
  if (count > 0) out_.send(job.session->peer, std::move(message));
}

void OutcomeDelivery::notice(JobRecord& job, std::string text) {
  if (job.waiting == text) return;
  job.waiting = text;
  if (job.session->present) out_.send(job.session->peer, message::Notice{job.id, std::move(text)});
}

}  // namespace muster
