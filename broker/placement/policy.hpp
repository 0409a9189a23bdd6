// The policy of placement: how many leases a worker may have, and who shares in what is queued.
// Functions of records alone: another policy is another policy.cpp. Pure.
#pragma once

#include <cstdint>

#include "broker/books/job_groups.hpp"
#include "broker/books/job_table.hpp"
#include "broker/books/worker_table.hpp"

namespace muster::policy {

// How many leases of the job the worker may hold beyond its slots; 0: its tasks are long.
std::uint32_t prefetch(const JobRecord& job, const WorkerRecord& worker);
// How many more leases of the job the worker may have. A long task may queue behind short ones,
// which are done in a moment, but never behind another long one. `load`: the worker's, as a task
// sees it.
std::uint32_t room(const JobRecord& job, const WorkerRecord& worker, std::uint64_t load);
// An even share of what may be leased, so that no worker takes the tail of a job alone.
// `class_slots`: of all workers of the worker's class.
std::uint64_t share_of(const JobRecord& job, const WorkerRecord& worker, std::uint64_t class_slots);
// Whether a task of the demand can start there now. `load`: the worker's, as the task sees it.
// `is_reserved`: the worker is kept free for another.
bool has_room(const Demand& demand, const Demand::Candidate& candidate, const WorkerRecord& worker,
              std::uint64_t load, bool is_reserved);

}  // namespace muster::policy
