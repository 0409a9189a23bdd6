#include "broker/books/worker_table.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/resources.hpp"

namespace muster {
namespace {

std::int32_t level_of(const WorkerRecord& worker, std::uint64_t load) {
  const std::uint32_t usable = worker.usable_slots();
  if (usable == 0 || !worker.takes_leases() || worker.reserved) return -1;
  if (load < usable) return static_cast<std::int32_t>(load * kFullLevel / usable);
  const std::uint64_t eighths = ((load - usable) * 8 + usable - 1) / usable;  // more than full: > 0
  return std::min(kFullLevel + static_cast<std::int32_t>(std::bit_width(eighths)), kLevels - 1);
}

std::uint64_t missing_of(const Payload& payload, const WorkerRecord& worker) {
  std::uint64_t missing = 0;
  for (std::uint32_t i = 0; i < payload.blobs; ++i) {
    const BlobName name = blob_at(payload, i);
    if (worker.blobs.count(name.id) != 0) continue;
    missing += std::clamp<std::uint64_t>(name.size_bytes, 1, kMostBlobBytes);
  }
  return missing;
}

}  // namespace

std::uint64_t missing_bytes(const JobRecord& job, const TaskRecord& task,
                            const WorkerRecord& worker) {
  if (!job.names_blobs || worker.shares) return 0;
  return missing_of(job.spec.function.body, worker) + missing_of(task.data, worker);
}

bool lacks_blobs(const JobRecord& job, const TaskRecord& task, const WorkerRecord& worker) {
  return missing_bytes(job, task, worker) > 0;
}

bool WorkerClass::offers(const Function& function) const {
  if (workers == 0) return false;
  switch (function.kind) {
    case FunctionKind::native:
      // One that comes with its libraries is offered everywhere.
      return !function.body.bytes.empty() ||
             std::binary_search(functions.begin(), functions.end(), function.name);
    case FunctionKind::command:
      return runs_commands;
    case FunctionKind::python:
      return python == function.python;
  }
  return false;
}

bool WorkerClass::offers(const JobSpec& spec) const {
  return offers(spec.function) && has_labels(labels, spec.labels);
}

WorkerIndex WorkerTable::add(message::HelloWorker hello) {
  auto worker = std::make_unique<WorkerRecord>();
  std::sort(hello.functions.begin(), hello.functions.end());
  std::sort(hello.labels.begin(), hello.labels.end());
  worker->hello = std::move(hello);
  worker->class_index = class_of(worker->hello);
  WorkerIndex index = static_cast<WorkerIndex>(workers_.size());
  if (free_.empty()) {
    workers_.emplace_back();
    links_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  WorkerClass& group = classes_[worker->class_index];
  if (group.workers++ == 0) ++generation_;
  group.slots += worker->hello.slots;
  worker->class_place = static_cast<std::uint32_t>(group.members.size());
  group.members.push_back(index);
  by_id_[worker->hello.worker] = index;
  workers_[index] = std::move(worker);
  ++size_;
  update_level(index);
  return index;
}

void WorkerTable::remove(WorkerIndex index) {
  WorkerRecord& worker = *workers_[index];
  count(worker, false);
  unlink(index);
  WorkerClass& group = classes_[worker.class_index];
  if (--group.workers == 0) ++generation_;
  group.slots -= worker.hello.slots;
  workers_[group.members.back()]->class_place = worker.class_place;
  group.members[worker.class_place] = group.members.back();
  group.members.pop_back();
  set_shares(index, false);
  by_id_.erase(worker.hello.worker);
  workers_[index].reset();
  free_.push_back(index);
  --size_;
}

WorkerIndex WorkerTable::find(const WorkerId& id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? kNoWorker : found->second;
}

std::uint32_t WorkerTable::class_of(const message::HelloWorker& hello) {
  for (std::uint32_t i = 0; i < classes_.size(); ++i) {
    if (classes_[i].runs_commands == hello.runs_commands && classes_[i].python == hello.python &&
        classes_[i].functions == hello.functions && classes_[i].labels == hello.labels) {
      return i;
    }
  }
  auto free = std::find_if(classes_.begin(), classes_.end(),
                           [](const WorkerClass& group) { return group.workers == 0; });
  if (free == classes_.end()) free = classes_.emplace(classes_.end());
  free->runs_commands = hello.runs_commands;
  free->python = hello.python;
  free->functions = hello.functions;
  free->labels = hello.labels;
  return static_cast<std::uint32_t>(free - classes_.begin());
}

void WorkerTable::update_level(WorkerIndex index) {
  WorkerRecord& worker = *workers_[index];
  count(worker, worker.present && !worker.draining);
  const std::int32_t level = level_of(worker, worker.load());
  const std::int32_t before = links_[index].level;
  if (level == before) return;
  if (level >= 0 && (before < 0 || level < before)) note_room(index);
  unlink(index);
  if (level >= 0) link(index, level);
}

void WorkerTable::note_room(WorkerIndex index) {
  const WorkerRecord& worker = *workers_[index];
  WorkerClass& group = classes_[worker.class_index];
  const std::uint64_t usable = worker.usable_slots();
  group.free_slots = std::max(group.free_slots, usable - std::min(usable, worker.load()));
  if (std::exchange(group.is_roomier, true)) return;
  roomier_.push_back(worker.class_index);
}

std::vector<RoomierClass> WorkerTable::take_roomier() {
  std::vector<RoomierClass> roomier;
  roomier.reserve(roomier_.size());
  for (const std::uint32_t index : roomier_) {
    classes_[index].is_roomier = false;
    roomier.push_back({index, std::exchange(classes_[index].free_slots, 0)});
  }
  roomier_.clear();
  return roomier;
}

void WorkerTable::count(WorkerRecord& worker, bool offers_slots) {
  if (worker.offers_slots == offers_slots) return;
  worker.offers_slots = offers_slots;
  pool_.total_slots += offers_slots ? worker.hello.slots : 0U - worker.hello.slots;
  pool_.workers += offers_slots ? 1U : 0U - 1U;
}

void WorkerTable::unlink(WorkerIndex index) {
  Link& own = links_[index];
  if (own.level < 0) return;
  if (own.previous == kNoWorker) {
    WorkerClass& group = classes_[workers_[index]->class_index];
    group.heads[static_cast<std::size_t>(own.level)] = own.next;
    if (own.next == kNoWorker) group.occupied_levels &= ~(std::uint64_t{1} << own.level);
  } else {
    links_[own.previous].next = own.next;
  }
  if (own.next != kNoWorker) links_[own.next].previous = own.previous;
  own = Link{};
}

void WorkerTable::link(WorkerIndex index, std::int32_t level) {
  WorkerClass& group = classes_[workers_[index]->class_index];
  WorkerIndex& head = group.heads[static_cast<std::size_t>(level)];
  links_[index] = {level, kNoWorker, head};
  if (head != kNoWorker) links_[head].previous = index;
  head = index;
  group.occupied_levels |= std::uint64_t{1} << level;
}

WorkerIndex WorkerTable::least_loaded(std::uint32_t class_index) const {
  const WorkerClass& group = classes_[class_index];
  if (group.occupied_levels == 0) return kNoWorker;
  return group.heads[static_cast<std::size_t>(std::countr_zero(group.occupied_levels))];
}

WorkerIndex WorkerTable::most_loaded(std::uint32_t class_index) const {
  const WorkerClass& group = classes_[class_index];
  if (group.occupied_levels == 0) return kNoWorker;
  return group.heads[static_cast<std::size_t>(63 - std::countl_zero(group.occupied_levels))];
}

std::int32_t WorkerTable::level_with(WorkerIndex index, std::uint64_t load) const {
  return level_of(*workers_[index], load);
}

WorkerIndex WorkerTable::next_member(std::uint32_t class_index) {
  WorkerClass& group = classes_[class_index];
  if (group.cursor >= group.members.size()) group.cursor = 0;
  return group.members[group.cursor++];
}

void WorkerTable::look_at_next(WorkerIndex index) {
  const WorkerRecord& worker = *workers_[index];
  classes_[worker.class_index].cursor = worker.class_place;
}

void WorkerTable::set_shares(WorkerIndex index, bool shares) {
  if (std::exchange(workers_[index]->shares, shares) == shares) return;
  sharing_ += shares ? 1U : 0U - 1U;
}

bool WorkerTable::has_idle_slot() const {
  constexpr std::uint64_t kIdleLevels = (std::uint64_t{1} << kFullLevel) - 1;
  return std::any_of(classes_.begin(), classes_.end(), [](const WorkerClass& group) {
    return (group.occupied_levels & kIdleLevels) != 0;
  });
}

}  // namespace muster
