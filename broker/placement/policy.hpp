// The policy of placement: where a task is best off, and how many leases a worker may have.
// Functions of records alone: another policy is another policy.cpp. Pure.
#pragma once

#include <cstdint>

#include "broker/books/job_groups.hpp"
#include "broker/books/job_table.hpp"
#include "broker/books/worker_table.hpp"

namespace muster {

// A worker with room for a task, as the task sees it.
struct Choice {
  WorkerIndex worker = kNoWorker;
  std::int32_t level = 0;           // of relative load
  std::uint64_t missing_bytes = 0;  // of the task's blobs: it waits for them there
  std::uint32_t width = 1;          // slots that the task takes there
  std::uint32_t ahead = 0;          // leases of its job beyond the worker's slots
  std::uint32_t room = 0;           // for so many tasks of its job
};

namespace policy {

// Whether the task is better off at `left` than at `right`: less load, then fewer bytes to fetch,
// then fewer slots. A task that came back goes where its blobs are, if anyone with room has them:
// that is what it came back for.
bool is_better(const TaskRecord& task, const Choice& left, const Choice& right);
// How many leases of the job the worker may hold beyond its slots; 0: its tasks are long.
std::uint32_t prefetch(const JobRecord& job, const WorkerRecord& worker);
// How many more leases of the job the worker may have. A long task may queue behind short ones,
// which are done in a moment, but never behind another long one; a task that asks for resources
// gets them at once. `load`: the worker's, as a task sees it; `ahead`: prefetch(); `width`: slots
// that a task takes.
std::uint32_t room(const JobRecord& job, const WorkerRecord& worker, std::uint64_t load,
                   std::uint32_t ahead, std::uint32_t width);
// An even share of what may be leased, so that no worker takes the tail of a job alone.
// `class_slots`: of all workers of the worker's class.
std::uint64_t share_of(const JobRecord& job, const WorkerRecord& worker, std::uint64_t class_slots);

}  // namespace policy
}  // namespace muster
