#include "worker/agent/held_jobs.hpp"

#include <algorithm>
#include <utility>

namespace muster {

bool HeldJobTable::declare(const JobName& name, JobSpec&& spec) {
  HeldJob* job = find(name);
  if (job == nullptr) {
    auto made = std::make_unique<HeldJob>();
    made->name = name;
    made->serial = next_serial_++;
    job = made.get();
    jobs_.emplace(name, std::move(made));
  }
  job->forgotten = false;
  if (job->spec != nullptr && *job->spec == spec) return true;
  // What the executor holds is counted by the kind of function and the resources that it started
  // with.
  if (job->spec != nullptr && !job->leases.empty() &&
      (job->spec->function.kind != spec.function.kind || job->spec->resources != spec.resources)) {
    return false;
  }
  set_spec(*job, std::move(spec));
  return true;
}

// The broker sends nothing that does not fit; what does all the same takes the whole worker.
void HeldJobTable::set_spec(HeldJob& job, JobSpec&& spec) const {
  job.mean_known = false;
  job.demanding = is_demanding(spec.resources);
  job.width = std::min(width_of(spec.resources, shape_), shape_.slots);
  job.gpus = std::min(spec.resources.gpus, shape_.gpus);
  job.spec = std::make_shared<const JobSpec>(std::move(spec));
}

HeldJob* HeldJobTable::find(const JobName& name) {
  if (last_ != nullptr && last_->name == name) return last_;
  const auto found = jobs_.find(name);
  if (found == jobs_.end()) return nullptr;
  last_ = found->second.get();
  return last_;
}

HeldJob* HeldJobTable::known(const JobName& name) {
  HeldJob* job = find(name);
  return job != nullptr && !job->forgotten ? job : nullptr;
}

void HeldJobTable::purge(bool idle_ones, std::vector<JobName>& freed) {
  std::erase_if(jobs_, [&](const auto& entry) {
    if (!entry.second->leases.empty() || (!idle_ones && !entry.second->forgotten)) return false;
    freed.push_back(entry.first);
    return true;
  });
  last_ = nullptr;
}

}  // namespace muster
