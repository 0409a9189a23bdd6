#include "broker/books/job_groups.hpp"

#include <algorithm>
#include <utility>

#include "common/protocol/resources.hpp"

namespace muster {

JobGroups::ClassKey JobGroups::class_key(const JobSpec& spec) {
  const Function& function = spec.function;
  std::string decides;
  if (function.kind == FunctionKind::native) decides = function.name;
  if (function.kind == FunctionKind::python) decides = function.python;
  const bool is_shipped = function.kind == FunctionKind::native && !function.body.bytes.empty();
  if (is_shipped) decides.clear();
  return {function.kind, is_shipped, std::move(decides), spec.labels};
}

JobGroups::DemandKey JobGroups::demand_key(const JobSpec& spec) {
  const Resources& wanted = spec.resources;
  return {class_key(spec), wanted.milli_cpus, wanted.memory_bytes, wanted.gpus};
}

void JobGroups::add(JobRecord& job) {
  if (!is_demanding(job.spec.resources)) return;
  Demand& demand = demands_[demand_key(job.spec)];
  job.demand = &demand;
  if (demand.jobs++ > 0) return;
  demand.wanted = job.spec.resources;
  workers_.each([&](WorkerIndex index, const WorkerRecord&) {
    if (may_run(job, index)) add_candidate(demand, index);
  });
}

const Demand* JobGroups::remove(JobRecord& job) {
  if (ClassCache* cache = std::exchange(job.classes, nullptr)) {
    if (--cache->jobs == 0) {
      queue_.remove(cache->plain);
      queue_.remove(cache->near);
      class_cache_.erase(class_key(job.spec));
    }
  }
  Demand* demand = std::exchange(job.demand, nullptr);
  if (demand == nullptr || --demand->jobs > 0) return nullptr;
  queue_.remove(demand->waiting);
  demands_.erase(demand_key(job.spec));
  return demand;
}

void JobGroups::add(WorkerIndex index) {
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
    add_candidate(demand, index);
  }
}

void JobGroups::add_candidate(Demand& demand, WorkerIndex index) {
  const std::uint32_t width = width_of(demand.wanted, shape_of(workers_.at(index).hello));
  demand.candidates.push_back({index, width});
  const std::uint32_t need = demand.waiting.need;
  if (need == 0 || width < need) queue_.set_need(demand.waiting, width);
}

void JobGroups::remove(WorkerIndex index) {
  for (auto& [key, demand] : demands_) {
    std::erase_if(demand.candidates, [&](const auto& entry) { return entry.worker == index; });
  }
}

const std::vector<std::uint32_t>& JobGroups::eligible_classes(JobRecord& job) {
  if (job.classes == nullptr) {
    job.classes = &class_cache_[class_key(job.spec)];
    ++job.classes->jobs;
  }
  ClassCache& cache = *job.classes;
  if (cache.generation != workers_.generation()) {
    cache.generation = workers_.generation();
    cache.classes.clear();
    const auto& classes = workers_.classes();
    for (std::uint32_t i = 0; i < classes.size(); ++i) {
      if (classes[i].offers(job.spec)) cache.classes.push_back(i);
    }
  }
  return cache.classes;
}

bool JobGroups::may_run(JobRecord& job, WorkerIndex index) {
  const WorkerRecord& worker = workers_.at(index);
  const auto& classes = eligible_classes(job);
  return std::find(classes.begin(), classes.end(), worker.class_index) != classes.end() &&
         fits(job.spec.resources, shape_of(worker.hello));
}

WaitGroup& JobGroups::wait_group(JobRecord& job, bool is_held) {
  if (is_held) return held_;
  if (job.demand != nullptr) return job.demand->waiting;
  return job.names_blobs && !workers_.all_share() ? job.classes->near : job.classes->plain;
}

}  // namespace muster
