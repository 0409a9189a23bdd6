#include "worker/agent/unsent_outcomes.hpp"

#include <algorithm>
#include <utility>

#include "common/protocol/limits.hpp"

namespace muster {

void UnsentOutcomes::note(HeldJob& job, TaskSequence sequence, Time now) {
  if (items_.empty()) since_ = now;
  items_.push_back({&job, sequence});
}

void UnsentOutcomes::note_all(const HeldJobs& jobs) {
  items_.clear();
  for (const auto& [name, job] : jobs) {
    job->leases.for_each([&, held = job.get()](TaskSequence sequence, const HeldLease& lease) {
      if (lease.state == LeaseState::finished) items_.push_back({held, sequence});
    });
  }
}

void UnsentOutcomes::forget(const HeldJob& job) {
  std::erase_if(items_, [&](const Item& item) { return item.job == &job; });
}

void UnsentOutcomes::purge() {
  std::erase_if(items_, [](const Item& item) {
    const HeldLease* lease = item.job->leases.find(item.sequence);
    return lease == nullptr || lease->state != LeaseState::finished;
  });
}

bool UnsentOutcomes::may_wait(bool has_work, Time now) const {
  return has_work && !items_.empty() && items_.size() < limits::kBatchTasks &&
         now - since_ < window_;
}

void UnsentOutcomes::say(std::vector<Message>& messages) {
  const auto before = [](const Item& left, const Item& right) {
    return left.job != right.job ? left.job->serial < right.job->serial
                                 : left.sequence < right.sequence;
  };
  if (!std::is_sorted(items_.begin(), items_.end(), before)) {
    std::sort(items_.begin(), items_.end(), before);
  }
  message::WorkerOutcomes batch;
  const HeldJob* job = nullptr;
  TaskSequence last{};
  std::size_t count = 0;
  std::size_t size_bytes = 0;
  const auto send = [&] {
    if (count > 0) messages.emplace_back(std::exchange(batch, {}));
    count = 0;
    size_bytes = 0;
  };
  for (const Item& item : items_) {
    const HeldLease* lease = item.job->leases.find(item.sequence);
    if (lease == nullptr || lease->state != LeaseState::finished) continue;
    if (item.job == job && count > 0 && item.sequence == last) continue;  // noted twice
    const std::size_t body_bytes = lease->body.bytes.size();
    if (item.job != job || count == limits::kBatchTasks ||
        size_bytes + body_bytes > limits::kBatchBytes) {
      send();
      job = item.job;
      batch.session = job->name.session;
      batch.job = job->name.job;
    }
    if (batch.runs.empty() || batch.runs.back().attempt != lease->attempt ||
        item.sequence != last + 1) {
      batch.runs.push_back({item.sequence, lease->attempt, {}});
    }
    batch.runs.back().outcomes.push_back({lease->status, lease->body});
    batch.busy += lease->busy;
    last = item.sequence;
    ++count;
    size_bytes += body_bytes;
  }
  send();
  items_.clear();
}

}  // namespace muster
