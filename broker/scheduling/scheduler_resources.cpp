// Tasks that ask for processors, memory or accelerators: where they fit, and how they get there on
// a busy pool. docs/protocol.md, "Resources", has the rule.
#include <algorithm>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"
#include "common/protocol/resources.hpp"

namespace muster {
namespace {

// Workers that one search looks at, and those with room among which it chooses: the cost of a
// search must not grow with the pool. The next one goes on behind them.
constexpr std::size_t kLooks = 64;
constexpr std::size_t kChoices = 8;
// A task that found no room for so long gets a worker to itself, which takes no other leases
// until the task fits.
constexpr Duration kReserveAfter = std::chrono::milliseconds(500);
// Other tasks of the demand use that worker as well, so that a job of many wide tasks does not
// wait anew for each.
constexpr Duration kKeepReserved = std::chrono::seconds(2);

}  // namespace

Scheduler::DemandKey Scheduler::demand_key(const JobSpec& spec) {
  const Resources& wanted = spec.resources;
  return {class_key(spec), wanted.milli_cpus, wanted.memory_bytes, wanted.gpus};
}

// Call once, when the job's specification is known.
void Scheduler::set_demand(JobRecord& job) {
  if (!is_demanding(job.spec.resources)) return;
  Demand& demand = demands_[demand_key(job.spec)];
  job.demand = &demand;
  if (demand.jobs++ > 0) return;
  demand.wanted = job.spec.resources;
  workers_.each([&](WorkerIndex index, const WorkerRecord& worker) {
    if (may_run(job, index)) {
      demand.candidates.push_back({index, width_of(demand.wanted, shape_of(worker.hello))});
    }
  });
}

void Scheduler::drop_demand(JobRecord& job) {
  Demand* demand = std::exchange(job.demand, nullptr);
  if (demand == nullptr || --demand->jobs > 0) return;
  if (drained_.demand == demand) release_drained();
  run_queue_.remove(demand->waiting);
  demands_.erase(demand_key(job.spec));
}

void Scheduler::consider(WorkerIndex index) {
  const message::HelloWorker& hello = workers_.at(index).hello;
  const WorkerClass& group = workers_.classes()[workers_.at(index).class_index];
  for (auto& [key, demand] : demands_) {
    const ClassKey& place = std::get<ClassKey>(key);
    JobSpec spec;
    const auto& [kind, is_shipped, decides, labels] = place;
    spec.function.kind = kind;
    spec.function.name = spec.function.python = decides;
    if (is_shipped) spec.function.body.bytes = Bytes::borrow("libraries");
    spec.labels = labels;
    if (!group.offers(spec) || !fits(demand.wanted, shape_of(hello))) continue;
    demand.candidates.push_back({index, width_of(demand.wanted, shape_of(hello))});
  }
}

void Scheduler::unconsider(WorkerIndex index) {
  if (drained_.worker == index) release_drained();
  for (auto& [key, demand] : demands_) {
    std::erase_if(demand.candidates, [&](const auto& entry) { return entry.worker == index; });
  }
}

// What one task of the job takes beyond one slot.
void Scheduler::charge(const JobRecord& job, WorkerRecord& worker) const {
  worker.extra_slots += width_of(job.demand->wanted, shape_of(worker.hello)) - 1;
  worker.gpus_taken += job.demand->wanted.gpus;
}

void Scheduler::refund(const JobRecord& job, WorkerRecord& worker) const {
  worker.extra_slots -= width_of(job.demand->wanted, shape_of(worker.hello)) - 1;
  worker.gpus_taken -= job.demand->wanted.gpus;
}

// `load`: the worker's, as the task sees it.
bool Scheduler::has_room(const Demand& demand, const Demand::Candidate& candidate,
                         std::uint64_t load) const {
  const WorkerRecord& worker = workers_.at(candidate.worker);
  if (worker.reserved && (drained_.worker != candidate.worker || drained_.demand != &demand)) {
    return false;
  }
  return worker.takes_leases() && load + candidate.width <= worker.usable_slots() &&
         worker.gpus_taken + demand.wanted.gpus <= worker.hello.gpus;
}

// The least loaded of some workers where a task of the demand can start now; null: none of those
// that were looked at.
// Among those that are loaded alike, the one that lacks the fewest bytes of the task's blobs.
const Demand::Candidate* Scheduler::find_room(const JobRecord& job, const TaskRecord& task) {
  Demand& demand = *job.demand;
  const std::vector<Demand::Candidate>& all = demand.candidates;
  const Demand::Candidate* best = nullptr;
  std::uint64_t least_missing = 0;
  std::size_t found = 0;
  for (std::size_t i = 0; i < std::min(all.size(), kLooks) && found < kChoices; ++i) {
    if (demand.cursor >= all.size()) demand.cursor = 0;
    const Demand::Candidate& candidate = all[demand.cursor++];
    const WorkerRecord& worker = workers_.at(candidate.worker);
    const std::uint64_t missing = missing_bytes(job, task, worker);
    if (!has_room(demand, candidate, missing == 0 ? worker.load() : worker.full_load())) continue;
    if (drained_.worker == candidate.worker) return &candidate;
    ++found;
    if (best == nullptr || std::pair(workers_.level(candidate.worker), missing) <
                               std::pair(workers_.level(best->worker), least_missing)) {
      best = &candidate;
      least_missing = missing;
    }
  }
  return best;
}

WorkerIndex Scheduler::least_loaded(const Demand& demand) const {
  WorkerIndex best = kNoWorker;
  for (std::size_t i = 0; i < std::min(demand.candidates.size(), kLooks); ++i) {
    const std::size_t place = (demand.cursor + i) % demand.candidates.size();
    const WorkerIndex index = demand.candidates[place].worker;
    if (workers_.level(index) < 0) continue;
    if (best == kNoWorker || workers_.level(index) < workers_.level(best)) best = index;
  }
  return best;
}

// Leases tasks of the job to one worker that can start them now; false: none can.
bool Scheduler::place_demanding(JobRecord& job, Time now) {
  Demand& demand = *job.demand;
  const std::uint64_t leasable = job.leasable();
  if (leasable == 0 || !job.has_queued() || demand.failed_in_turn == turn_) return false;
  if (drained_.demand == &demand) {  // it is looked at first
    const auto own = std::find_if(demand.candidates.begin(), demand.candidates.end(),
                                  [&](auto& entry) { return entry.worker == drained_.worker; });
    demand.cursor = static_cast<std::size_t>(own - demand.candidates.begin());
  }
  const auto oldest = job.peek_queued(false);
  const Demand::Candidate* found = oldest ? find_room(job, *job.find(*oldest)) : nullptr;
  if (found == nullptr) {
    demand.failed_in_turn = turn_;
    if (demand.blocked_since == kNever) demand.blocked_since = now;
    if (now - demand.blocked_since >= kReserveAfter) reserve(demand, now);
    return false;
  }
  const Demand::Candidate candidate = *found;
  const WorkerRecord& worker = workers_.at(candidate.worker);
  const std::uint64_t share =
      std::clamp<std::uint64_t>(leasable / demand.candidates.size(), 1, limits::kBatchTasks);
  message::Tasks tasks{job.session->id, job.id, {}};
  std::size_t bytes = 0;
  std::uint64_t leased = 0;
  while (leased < share && (leased == 0 || bytes < limits::kBatchBytes)) {
    const auto sequence = job.peek_queued(false);
    if (!sequence) break;
    const bool fetches = missing_bytes(job, *job.find(*sequence), worker) > 0;
    if (!has_room(demand, candidate, fetches ? worker.full_load() : worker.load())) break;
    job.take_queued(false);
    bytes += job.find(*sequence)->data.bytes.size();
    lease(job, candidate.worker, *sequence, {1, false, fetches}, tasks);
    ++leased;
  }
  if (leased == 0) return false;
  demand.blocked_since = kNever;
  if (drained_.worker == candidate.worker && drained_.until == kNever) {
    drained_.until = now + kKeepReserved;
  }
  run_queue_.charge(job, leased * candidate.width);
  send_tasks(job, candidate.worker, std::move(tasks));
  workers_.at(candidate.worker).last_sent = now;
  return true;
}

// Keeps the worker that lacks least from getting other leases. One at a time: slots idle for it.
void Scheduler::reserve(Demand& demand, Time now) {
  if (drained_.worker != kNoWorker || demand.candidates.empty()) return;
  const auto lacking = [&](const Demand::Candidate& candidate) {
    const WorkerRecord& worker = workers_.at(candidate.worker);
    const std::uint64_t gpus = worker.gpus_taken + demand.wanted.gpus;
    const std::uint64_t slots = worker.load() + candidate.width;
    return std::pair(gpus > worker.hello.gpus,
                     slots - std::min<std::uint64_t>(slots, worker.usable_slots()));
  };
  const Demand::Candidate* best = nullptr;
  for (std::size_t i = 0; i < std::min(demand.candidates.size(), kLooks); ++i) {
    const auto& candidate = demand.candidates[(demand.cursor + i) % demand.candidates.size()];
    const WorkerRecord& worker = workers_.at(candidate.worker);
    if (workers_.level(candidate.worker) < 0 || candidate.width > worker.usable_slots()) continue;
    if (best == nullptr || lacking(candidate) < lacking(*best)) best = &candidate;
  }
  if (best == nullptr) return;
  drained_ = {best->worker, &demand, kNever};
  WorkerRecord& worker = workers_.at(best->worker);
  worker.reserved = true;
  workers_.update_level(best->worker);
  ++counters_["workers_reserved"];
  if (worker.load() > worker.usable_slots()) {
    recall_from(best->worker, kNoWorker,
                static_cast<std::uint32_t>(worker.load() - worker.usable_slots()), now);
  }
}

void Scheduler::release_drained() {
  if (drained_.worker == kNoWorker) return;
  workers_.at(drained_.worker).reserved = false;
  workers_.update_level(drained_.worker);
  drained_ = {};
}

// Nobody needs it any more, or others are to have their turn.
void Scheduler::review_drained(Time now) {
  if (drained_.worker == kNoWorker) return;
  const WorkerRecord& worker = workers_.at(drained_.worker);
  const auto wants_it = [&](const JobRecord& job) {
    return job.demand == drained_.demand && job.has_queued();
  };
  const bool wanted = drained_.demand->waiting.any_of(wants_it) || run_queue_.any_of(wants_it);
  if (!wanted || !worker.takes_leases() || now >= drained_.until) release_drained();
}

std::string Scheduler::nobody_is_large_enough(JobRecord& job) {
  const Resources& wanted = job.spec.resources;
  const WorkerRecord* most_cores = nullptr;
  const WorkerRecord* most_memory = nullptr;
  const WorkerRecord* most_gpus = nullptr;
  const auto larger = [](const WorkerRecord*& largest, const WorkerRecord& worker, auto field) {
    if (largest == nullptr || worker.hello.*field > largest->hello.*field) largest = &worker;
  };
  const auto& classes = eligible_classes(job);
  workers_.each([&](WorkerIndex, const WorkerRecord& worker) {
    if (std::find(classes.begin(), classes.end(), worker.class_index) == classes.end()) return;
    larger(most_cores, worker, &message::HelloWorker::cores);
    larger(most_memory, worker, &message::HelloWorker::memory_bytes);
    larger(most_gpus, worker, &message::HelloWorker::gpus);
  });
  if (most_cores == nullptr) return "no worker that could run it is connected";
  const auto fits_alone = [&](const WorkerRecord* worker, const Resources& part) {
    return fits(part, shape_of(worker->hello));
  };
  const std::string advice = "; ask for less, or start a larger worker";
  if (wanted.memory_bytes > most_memory->hello.memory_bytes &&
      most_memory->hello.memory_bytes > 0) {
    return "no worker has " + describe_bytes(wanted.memory_bytes) + " for one task; the largest, " +
           most_memory->hello.node + ", has " + describe_bytes(most_memory->hello.memory_bytes) +
           advice;
  }
  if (!fits_alone(most_cores, {wanted.milli_cpus, 0, 0})) {
    return "no worker has " + describe_cpus(wanted.milli_cpus) + " for one task; the largest, " +
           most_cores->hello.node + ", has " +
           describe_cpus(std::uint64_t{shape_of(most_cores->hello).cores} * 1000) + advice;
  }
  if (wanted.gpus > most_gpus->hello.gpus) {
    return "no worker has " + std::to_string(wanted.gpus) + " GPUs for one task; the largest, " +
           most_gpus->hello.node + ", has " + std::to_string(most_gpus->hello.gpus) + advice;
  }
  return "no single worker has all that one task asks for (" + describe_cpus(wanted.milli_cpus) +
         ", " + describe_bytes(wanted.memory_bytes) + ", " + std::to_string(wanted.gpus) +
         " GPUs)" + advice;
}

// Why a task that fits somewhere waits. Called when nothing of its job runs.
std::string Scheduler::nobody_has_room(JobRecord& job) {
  const Demand& demand = *job.demand;
  if (demand.blocked_since == kNever) return "";
  const auto narrowest =
      std::min_element(demand.candidates.begin(), demand.candidates.end(),
                       [](auto& left, auto& right) { return left.width < right.width; });
  std::string text = "waits until one worker has " + std::to_string(narrowest->width) +
                     (narrowest->width == 1 ? " slot" : " slots");
  if (demand.wanted.gpus > 0) text += " and " + std::to_string(demand.wanted.gpus) + " GPUs";
  text += " free for a task";
  if (drained_.demand == &demand) {
    text += "; " + workers_.at(drained_.worker).hello.node + " is kept free for it";
  }
  return text;
}

void Scheduler::check_demands() const {
  auto& self = const_cast<Scheduler&>(*this);
  std::unordered_map<WorkerIndex, std::uint64_t> extra;
  std::unordered_map<WorkerIndex, std::uint64_t> gpus;
  std::unordered_map<const Demand*, std::uint32_t> jobs;
  for (const auto& [key, job] : jobs_) {
    CHECK((job->demand != nullptr) == (job->declared && is_demanding(job->spec.resources)));
    if (job->demand == nullptr) continue;
    CHECK(job->demand->wanted == job->spec.resources);
    ++jobs[job->demand];
    job->each([&, job = job.get()](std::uint64_t, const TaskRecord& task) {
      if (task.state != TaskState::leased) return;
      const Shape shape = shape_of(workers_.at(task.worker).hello);
      extra[task.worker] += width_of(job->spec.resources, shape) - 1;
      gpus[task.worker] += job->spec.resources.gpus;
    });
    std::size_t fitting = 0;
    JobRecord* const asking = job.get();
    self.workers_.each([&](WorkerIndex index, const WorkerRecord&) {
      fitting += self.may_run(*asking, index) ? 1 : 0;
    });
    CHECK(fitting == job->demand->candidates.size());
    for (const auto& candidate : job->demand->candidates) {
      CHECK(self.may_run(*job, candidate.worker));
    }
  }
  CHECK(jobs.size() == demands_.size());
  for (const auto& [key, demand] : demands_) CHECK(demand.jobs == jobs[&demand]);
  self.workers_.each([&](WorkerIndex index, const WorkerRecord& worker) {
    CHECK(worker.extra_slots == extra[index]);
    CHECK(worker.gpus_taken == gpus[index]);
    CHECK(worker.gpus_taken <= worker.hello.gpus || counter("leases_adopted") > 0);
    CHECK(worker.reserved == (index == reserved_worker_ || index == drained_.worker));
  });
  CHECK(drained_.worker == kNoWorker || drained_.worker != reserved_worker_);
}

}  // namespace muster
