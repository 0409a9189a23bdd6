#include "broker/placement/explain.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "broker/books/blob_accounts.hpp"
#include "common/protocol/resources.hpp"

namespace muster {
namespace {

constexpr std::size_t kNamesInText = 8;

std::string list_some(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNamesInText); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return names.size() > kNamesInText ? text + ", …" : text;
}

}  // namespace

void Explain::look() {
  class_rooms_.assign(books_.workers().classes().size(), {});
  books_.workers().each([&](WorkerIndex, const WorkerRecord& worker) {
    ClassRoom& room = class_rooms_[worker.class_index];
    room.stuck_slots += worker.stuck_slots;
    room.usable_slots += worker.draining || worker.paused ? 0 : worker.usable_slots();
    if (worker.paused) room.paused = worker.hello.node + ": " + worker.pause_reason;
  });
}

Explain::Reason Explain::why(JobRecord& job) {
  const SchedulerOptions& options = books_.options();
  Reason reason;
  if (books_.workers().size() == 0) {
    reason.patience = options.no_worker_timeout;
    reason.text = "no worker is connected; start one with: " + options.worker_hint;
    return reason;
  }
  if (books_.groups().eligible_classes(job).empty()) {
    reason.patience = options.unknown_function_timeout;
    reason.text = nobody_offers(job.spec, reason.kind);
    return reason;
  }
  if (job.demand != nullptr && job.demand->candidates.empty()) {
    reason.patience = options.unknown_function_timeout;
    reason.text = nobody_is_large_enough(job);
    return reason;
  }
  reason.text = no_slot(job);
  if (reason.text.empty()) reason.text = BlobAccounts::held_reason(job);
  if (reason.text.empty() && job.demand != nullptr) reason.text = nobody_has_room(*job.demand);
  return reason;
}

// Why no worker that could run the job has a slot for anybody; empty: some have.
std::string Explain::no_slot(JobRecord& job) const {
  std::uint64_t stuck = 0;
  std::uint64_t usable = 0;
  std::string paused;
  for (const std::uint32_t index : books_.groups().eligible_classes(job)) {
    const ClassRoom& room = class_rooms_.at(index);
    stuck += room.stuck_slots;
    usable += room.usable_slots;
    if (!room.paused.empty()) paused = room.paused;
  }
  if (usable > 0) return "";
  if (!paused.empty()) return "the workers that could run it pause (" + paused + ")";
  return "no slot is free: " + std::to_string(stuck) +
         " are held by tasks that timed out or were stopped and have not returned, the other "
         "workers are draining; use the process executor, whose tasks can be killed";
}

// Why no connected worker can run the function at all.
std::string Explain::nobody_offers(const JobSpec& spec, const char*& kind) {
  const Function& function = spec.function;
  const auto& classes = books_.workers().classes();
  if (!spec.labels.empty() && std::any_of(classes.begin(), classes.end(),
                                          [&](auto& group) { return group.offers(function); })) {
    std::set<std::string> labels;
    for (const WorkerClass& group : classes) {
      if (group.workers > 0) labels.insert(group.labels.begin(), group.labels.end());
    }
    return "no connected worker that could run it has all of the labels " + list_some(spec.labels) +
           " (workers have: " +
           (labels.empty() ? "none" : list_some({labels.begin(), labels.end()})) +
           "); start a worker with --label, or name other labels";
  }
  if (function.kind == FunctionKind::python) {
    kind = "wrong_interpreter";
    return nobody_interprets(function);
  }
  kind = "unknown_function";
  if (function.kind == FunctionKind::command) return "no connected worker runs commands";
  return "no connected worker offers the function '" + function.name +
         "' (offered: " + offered_functions() +
         "); start a worker with --plugin and the library that registers it";
}

// Many jobs may ask for it, and classes may offer many: made once for these workers.
const std::string& Explain::offered_functions() {
  if (std::exchange(offered_generation_, books_.workers().generation()) ==
      books_.workers().generation()) {
    return offered_functions_;
  }
  std::vector<std::string> offered;
  for (const WorkerClass& group : books_.workers().classes()) {
    if (group.workers > 0) {
      offered.insert(offered.end(), group.functions.begin(), group.functions.end());
    }
  }
  std::sort(offered.begin(), offered.end());
  offered.erase(std::unique(offered.begin(), offered.end()), offered.end());
  return offered_functions_ = offered.empty() ? "none" : list_some(offered);
}

std::string Explain::nobody_interprets(const Function& function) const {
  std::set<std::string> versions;
  std::vector<std::string> offered;  // "3.11 on node7"
  std::string some_node;
  books_.workers().each([&](WorkerIndex, const WorkerRecord& worker) {
    if (some_node.empty()) some_node = worker.hello.node;
    if (worker.hello.python.empty() || offered.size() > kNamesInText) return;
    std::string offer = worker.hello.python + " on " + worker.hello.node;
    if (std::find(offered.begin(), offered.end(), offer) != offered.end()) return;
    offered.push_back(std::move(offer));
    versions.insert(worker.hello.python);
  });
  std::string text = "the function needs Python " + function.python + ", which no worker offers (" +
                     (offered.empty() ? "none has Python" : "offered: " + list_some(offered)) +
                     "); ";
  if (!versions.empty()) text += "start the client with Python " + *versions.rbegin() + ", or ";
  return text + "install Python " + function.python + " and muster on node " + some_node +
         " and restart its worker with --python (`muster status` says what nodes of `muster up` "
         "lack)";
}

std::string Explain::nobody_is_large_enough(JobRecord& job) const {
  const Resources& wanted = job.spec.resources;
  const WorkerRecord* most_cores = nullptr;
  const WorkerRecord* most_memory = nullptr;
  const WorkerRecord* most_gpus = nullptr;
  const auto larger = [](const WorkerRecord*& largest, const WorkerRecord& worker, auto field) {
    if (largest == nullptr || worker.hello.*field > largest->hello.*field) largest = &worker;
  };
  const auto& classes = books_.groups().eligible_classes(job);
  books_.workers().each([&](WorkerIndex, const WorkerRecord& worker) {
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

// Why a task that fits somewhere waits.
std::string Explain::nobody_has_room(const Demand& demand) const {
  if (demand.blocked_since == kNever) return "";
  const auto narrowest =
      std::min_element(demand.candidates.begin(), demand.candidates.end(),
                       [](auto& left, auto& right) { return left.width < right.width; });
  std::string text = "waits until one worker has " + std::to_string(narrowest->width) +
                     (narrowest->width == 1 ? " slot" : " slots");
  if (demand.wanted.gpus > 0) text += " and " + std::to_string(demand.wanted.gpus) + " GPUs";
  text += " free for a task";
  if (books_.reservations().is_drained_for(demand)) {
    text +=
        "; " + books_.worker(books_.reservations().drained()).hello.node + " is kept free for it";
  }
  return text;
}

}  // namespace muster
