// What the agent and the executors exchange: a lease, its start and its end. Plain values.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

// A job, among all sessions.
struct JobName {
  SessionId session;
  JobId job{};
  bool operator==(const JobName&) const = default;
};

// (task, attempt) given to this worker.
struct Lease {
  SessionId session;
  JobId job{};
  TaskSequence sequence{};
  Attempt attempt{};
  bool operator==(const Lease&) const = default;
  JobName job_name() const { return {session, job}; }
};

struct TaskStart {
  Lease lease;
  std::shared_ptr<const JobSpec> spec;  // never null
  Payload payload;
  std::vector<std::uint32_t> devices = {};  // accelerators that are its own, counted from 0
};

struct TaskFinish {
  Lease lease;
  Outcome outcome;
  Duration busy{};  // from its start to its end; zero when it never ran
};

}  // namespace muster

template <>
struct std::hash<muster::JobName> {
  std::size_t operator()(const muster::JobName& key) const noexcept {
    return std::hash<muster::SessionId>()(key.session) +
           muster::value(key.job) * 0xbf58476d1ce4e5b9ULL;
  }
};

template <>
struct std::hash<muster::Lease> {
  std::size_t operator()(const muster::Lease& lease) const noexcept {
    const std::size_t job = std::hash<muster::JobName>()(lease.job_name());
    return (job ^ muster::value(lease.sequence)) * 0x9e3779b97f4a7c15ULL +
           muster::value(lease.attempt);
  }
};
