// The agent's output: HELLO, starts, outcomes and returned leases, and its bookkeeping.
#include <algorithm>
#include <utility>

#include "common/check.hpp"
#include "worker/agent/agent.hpp"

namespace muster {
namespace {

// More than this per slot is of no use to microsecond tasks and only makes recalls slow.
constexpr std::uint64_t kMostAhead = 4096;

// Each new duration moves the mean by a sixteenth: quick to learn, not thrown by one outlier.
constexpr int kMeanShift = 4;

}  // namespace

Agent::Actions Agent::take_actions() {
  if (purge_due_) purge_jobs(false);
  fail_blocked();
  fill_executor();
  if (link_ == Link::up) {
    if (state_changed_) outbox_.emplace_back(message::WorkerState{stuck_, draining_, paused_});
    state_changed_ = false;
    flush_blobs();
    if (!may_wait()) flush_outcomes();
    flush_returns();
  }
  Actions actions;
  actions.messages.swap(outbox_);
  actions.forgets.swap(forgets_);
  actions.stops.swap(stops_);
  actions.recalls.swap(recalls_);
  actions.starts.swap(starts_);
  actions.blobs.swap(requests_);
  if (!actions.messages.empty()) last_sent_ = now_;
  return actions;
}

void Agent::say_hello() {
  link_ = Link::waiting;
  greeted_ = true;
  outbox_.clear();
  unsent_.clear();
  returns_.clear();  // the broker requeues what HELLO does not list
  purge_jobs(true);
  message::HelloWorker hello;
  hello.software_version = MUSTER_VERSION;
  hello.worker = options_.worker;
  hello.node = options_.node;
  hello.executor = options_.executor;
  hello.process_id = options_.process_id;
  hello.slots = options_.slots;
  hello.cores = options_.cores;
  hello.memory_bytes = options_.memory_bytes;
  hello.gpus = options_.gpus;
  hello.labels = options_.labels;
  hello.python = options_.python;
  hello.runs_commands = options_.runs_commands;
  hello.functions = options_.functions;
  hello.held = list_held();
  outbox_.emplace_back(std::move(hello));
}

// Every lease in the order in which it came, the oldest ones when there are too many.
std::vector<message::HeldLeases> Agent::list_held() {
  struct Item {
    std::uint64_t order;
    const HeldJob* job;
    TaskSequence sequence;
    Attempt attempt;
  };
  std::vector<Item> items;
  for (const auto& [name, job] : jobs_) {
    const HeldJob* held = job.get();
    job->leases.for_each([&](TaskSequence sequence, const HeldLease& lease) {
      if (lease.state == LeaseState::abandoned) return;
      items.push_back({lease.order, held, sequence, lease.attempt});
    });
  }
  std::sort(items.begin(), items.end(),
            [](const Item& left, const Item& right) { return left.order < right.order; });
  if (items.size() > limits::kMaxReportedLeases) items.resize(limits::kMaxReportedLeases);
  std::vector<message::HeldLeases> groups;
  for (const Item& item : items) {
    const JobName& name = item.job->name;
    if (groups.empty() || groups.back().session != name.session || groups.back().job != name.job) {
      groups.push_back({name.session, name.job, {}});
    }
    append_lease(groups.back().leases, item.sequence, item.attempt);
  }
  return groups;
}

void Agent::resend_outcomes() {
  unsent_.clear();
  for (const auto& [name, job] : jobs_) {
    HeldJob* held = job.get();
    job->leases.for_each([&](TaskSequence sequence, const HeldLease& lease) {
      if (lease.state == LeaseState::finished) unsent_.push_back({held, sequence});
    });
  }
}

// --- Starts -------------------------------------------------------------------------------------

void Agent::learn(HeldJob& job, const TaskFinish& task) {
  if (task.outcome.status != OutcomeStatus::result && task.outcome.status != OutcomeStatus::error) {
    return;
  }
  if (!job.mean_known) {
    job.mean = task.busy;
    job.mean_known = true;
  } else {
    job.mean += (task.busy - job.mean) / (1 << kMeanShift);
  }
}

// How many leases the executor may hold when the next one is of this job.
std::uint64_t Agent::allowance(const HeldJob& job) const {
  const std::uint64_t free = options_.slots - stuck_;
  std::size_t others = 0;
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    if (kind != kind_of(*job.spec)) others += in_executor_[kind];
  }
  // Kinds share the slots: beside another kind nothing may wait inside the executor, because its
  // parts do not see each other's queues. Neither may anything wait beside a wide task.
  if (others > 0 || demanding_ > 0 || !job.mean_known) return free;
  const std::int64_t mean = std::max<std::int64_t>(job.mean.count(), 1);
  const auto ahead = static_cast<std::uint64_t>(options_.start_window.count() / mean);
  return free * (1 + std::min(ahead, kMostAhead - 1));
}

// Whether the next task may go to the executor when it is of this job.
bool Agent::may_start(const HeldJob& job) const {
  std::size_t used = extra_slots_;
  for (const std::size_t count : in_executor_) used += count;
  if (!job.demanding) return used < allowance(job);
  const auto taken = std::count(device_taken_.begin(), device_taken_.end(), true);
  return used + job.width <= options_.slots - stuck_ &&
         static_cast<std::uint64_t>(taken) + job.gpus <= options_.gpus;
}

std::vector<std::uint32_t> Agent::take_devices(const HeldJob& job, const Lease& lease) {
  std::vector<std::uint32_t> devices;
  for (std::uint32_t i = 0; i < options_.gpus && devices.size() < job.gpus; ++i) {
    if (device_taken_[i]) continue;
    device_taken_[i] = true;
    devices.push_back(i);
  }
  if (!devices.empty()) devices_[lease] = devices;
  return devices;
}

void Agent::fill_executor() {
  while (queued_ > 0) {
    const QueueItem item = queue_.front();
    if (is_stale(item, LeaseState::queued)) {
      queue_.pop_front();
      continue;
    }
    if (!may_start(*item.job)) break;
    queue_.pop_front();
    --queued_;
    HeldLease* lease = item.job->leases.find(item.sequence);
    ++in_executor_[kind_of(*item.job->spec)];
    lease->state = LeaseState::started;
    lease->executor_attempt = lease->attempt;
    lease->stopping = false;
    starts_.push_back({executor_lease(*item.job, item.sequence, *lease), item.job->spec,
                       std::exchange(lease->body, {})});
    if (!item.job->demanding) continue;
    ++demanding_;
    extra_slots_ += item.job->width - 1;
    starts_.back().devices = take_devices(*item.job, starts_.back().lease);
  }
  if (queue_.size() > 2 * queued_ + 1024) purge_jobs(false);
}

// --- Outcomes and returns -----------------------------------------------------------------------

bool Agent::may_wait() const {
  if (unsent_.empty() || unsent_.size() >= limits::kBatchTasks || queued_ == 0) return false;
  std::size_t busy = 0;
  for (const std::size_t count : in_executor_) busy += count;
  busy += extra_slots_;
  return busy >= options_.slots && now_ - unsent_since_ < options_.outcome_window;
}

void Agent::flush_outcomes() {
  const auto before = [](const OutcomeItem& left, const OutcomeItem& right) {
    return left.job != right.job ? left.job->serial < right.job->serial
                                 : left.sequence < right.sequence;
  };
  if (!std::is_sorted(unsent_.begin(), unsent_.end(), before)) {
    std::sort(unsent_.begin(), unsent_.end(), before);
  }
  message::WorkerOutcomes batch;
  const HeldJob* job = nullptr;
  TaskSequence last{};
  std::size_t count = 0;
  std::size_t size_bytes = 0;
  const auto send = [&] {
    if (count > 0) outbox_.emplace_back(std::exchange(batch, {}));
    count = 0;
    size_bytes = 0;
  };
  for (const OutcomeItem& item : unsent_) {
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
  unsent_.clear();
}

void Agent::flush_returns() {
  const auto before = [](const Lease& left, const Lease& right) {
    if (left.session != right.session) return left.session < right.session;
    return left.job != right.job ? left.job < right.job : left.sequence < right.sequence;
  };
  std::sort(returns_.begin(), returns_.end(), before);
  message::Returned batch;
  const auto send = [&] {
    if (!batch.leases.empty()) outbox_.emplace_back(std::exchange(batch, {}));
  };
  for (const Lease& lease : returns_) {
    if (lease.session != batch.session || lease.job != batch.job ||
        batch.leases.size() == limits::kMaxRuns) {
      send();
      batch.session = lease.session;
      batch.job = lease.job;
    }
    append_lease(batch.leases, lease.sequence, lease.attempt);
  }
  send();
  returns_.clear();
}

void Agent::append_lease(std::vector<LeaseRange>& ranges, TaskSequence sequence, Attempt attempt) {
  if (!ranges.empty() && ranges.back().attempt == attempt &&
      ranges.back().first + ranges.back().count == sequence) {
    ++ranges.back().count;
  } else {
    ranges.push_back({sequence, 1, attempt});
  }
}

// --- Books --------------------------------------------------------------------------------------

void Agent::enqueue(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  lease.stopping = false;
  lease.order = next_order_++;
  take_needs(job, lease);
  if (lease.needs != nullptr && lease.needs->missing > 0) {
    start_waiting(job, sequence, lease);
    return;
  }
  lease.state = LeaseState::queued;
  queue_.push_back({&job, sequence, lease.order});
  ++queued_;
}

void Agent::leave_queue(const HeldLease& lease) {
  --(lease.state == LeaseState::waiting ? waiting_ : queued_);
}

bool Agent::is_stale(const QueueItem& item, LeaseState state) {
  const HeldLease* lease = item.job->leases.find(item.sequence);
  return lease == nullptr || lease->state != state || lease->order != item.order;
}

void Agent::finish(HeldJob& job, TaskSequence sequence, HeldLease& lease, Outcome&& outcome,
                   Duration busy) {
  release_needs(std::move(lease.needs));
  if (outcome.body.blobs > 0) ++kept_results_;
  ask_for_each(BlobRequest::Kind::keep, outcome.body);
  lease.state = LeaseState::finished;
  lease.status = outcome.status;
  lease.body = std::move(outcome.body);
  lease.busy = busy;
  lease.stopping = false;
  if (unsent_.empty()) unsent_since_ = now_;
  unsent_.push_back({&job, sequence});
}

void Agent::hand_back(HeldJob& job, TaskSequence sequence, HeldLease& lease) {
  give_back(job.name, sequence, lease.attempt);
  leave_queue(lease);
  drop(job, sequence);
}

void Agent::drop(HeldJob& job, TaskSequence sequence) {
  HeldLease& lease = *job.leases.find(sequence);
  release_needs(std::move(lease.needs));
  if (lease.state == LeaseState::finished) discard_outcome(lease);
  job.leases.erase(sequence);
  --held_;
}

void Agent::give_back(const JobName& name, TaskSequence sequence, Attempt attempt) {
  returns_.push_back({name.session, name.job, sequence, attempt});
}

Lease Agent::executor_lease(const HeldJob& job, TaskSequence sequence, const HeldLease& lease) {
  return {job.name.session, job.name.job, sequence, lease.executor_attempt};
}

Agent::HeldJob* Agent::find_job(const JobName& name) {
  if (last_job_ != nullptr && last_job_->name == name) return last_job_;
  const auto found = jobs_.find(name);
  if (found == jobs_.end()) return nullptr;
  last_job_ = found->second.get();
  return last_job_;
}

Agent::HeldJob* Agent::known_job(const JobName& name) {
  HeldJob* job = find_job(name);
  return job != nullptr && !job->forgotten ? job : nullptr;
}

// Frees forgotten jobs that hold nothing, and with `idle_ones` every job that holds nothing: on a
// new connection the broker declares again what it still needs.
void Agent::purge_jobs(bool idle_ones) {
  purge_due_ = false;
  std::erase_if(queue_, [](const QueueItem& item) { return is_stale(item, LeaseState::queued); });
  for (auto& [id, use] : uses_) {
    std::erase_if(use.waiters,
                  [](const QueueItem& item) { return is_stale(item, LeaseState::waiting); });
  }
  std::erase_if(unsent_, [](const OutcomeItem& item) {
    const HeldLease* lease = item.job->leases.find(item.sequence);
    return lease == nullptr || lease->state != LeaseState::finished;
  });
  std::erase_if(jobs_, [&](const auto& entry) {
    if (!entry.second->leases.empty() || (!idle_ones && !entry.second->forgotten)) return false;
    forgets_.push_back(entry.first);
    return true;
  });
  last_job_ = nullptr;
}

void Agent::check_invariants() const {
  std::size_t held = 0;
  std::size_t queued = 0;
  std::array<std::size_t, kKinds> in_executor{};
  std::size_t demanding = 0;
  std::size_t extra_slots = 0;
  std::size_t devices = 0;
  for (const auto& [name, job] : jobs_) {
    held += job->leases.size();
    job->leases.for_each([&, held_job = job.get()](TaskSequence, const HeldLease& lease) {
      const JobSpec* spec = held_job->spec.get();
      CHECK(lease.state != LeaseState::superseded || lease.stopping);
      queued += lease.state == LeaseState::queued ? 1 : 0;
      in_executor[kind_of(*spec)] += lease.in_executor() ? 1 : 0;
      if (!lease.in_executor() || !held_job->demanding) return;
      ++demanding;
      extra_slots += held_job->width - 1;
      devices += held_job->gpus;
    });
  }
  CHECK(held == held_);
  CHECK(queued == queued_);
  CHECK(queued <= queue_.size());
  CHECK(in_executor == in_executor_);
  CHECK(demanding == demanding_);
  CHECK(extra_slots == extra_slots_);
  CHECK(devices ==
        static_cast<std::size_t>(std::count(device_taken_.begin(), device_taken_.end(), true)));
  CHECK(demanding_ == 0 || extra_slots_ < options_.slots);
  check_blobs();
  CHECK(stuck_ <= options_.slots);
  CHECK(link_ != Link::up || greeted_);
}

}  // namespace muster
