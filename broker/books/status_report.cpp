#include "broker/books/status_report.hpp"

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

namespace muster {
namespace {

std::uint64_t milliseconds(Duration duration) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, duration_cast<std::chrono::milliseconds>(duration).count()));
}
std::uint64_t microseconds(Duration duration) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, duration_cast<std::chrono::microseconds>(duration).count()));
}

}  // namespace

std::string shown(const SessionRecord& session) {
  std::string text = "s" + std::to_string(session.number);
  if (session.user != nullptr && !session.user->who.name.empty()) {
    text += " (" + session.user->who.name + ")";
  }
  return text;
}

message::Status StatusReport::at(Time now) const {
  message::Status status;
  status.software_version = books_.options().software_version;
  status.incarnation = to_hex(books_.options().incarnation);
  status.uptime_ms = milliseconds(now - books_.started());
  status.sessions = static_cast<std::uint32_t>(books_.sessions().size());
  status.total_slots = books_.workers().pool().total_slots;
  add_workers(status, now);
  add_jobs(status);
  add_nodes(status);
  status.counters.assign(books_.counters().begin(), books_.counters().end());
  status.counters.insert(status.counters.end(), gauges_.begin(), gauges_.end());
  return status;
}

void StatusReport::add_workers(message::Status& status, Time now) const {
  books_.workers().each([&](WorkerIndex, const WorkerRecord& worker) {
    if (status.workers.size() >= limits::kMaxStatusRows) return;
    message::WorkerStatus row;
    row.worker = "w" + std::to_string(worker.number);
    row.node = worker.hello.node;
    row.executor = worker.hello.executor;
    row.python = worker.hello.python;
    row.process_id = worker.hello.process_id;
    row.cores = worker.hello.cores;
    row.memory_bytes = worker.hello.memory_bytes;
    row.gpus = worker.hello.gpus;
    row.labels = worker.hello.labels;
    row.slots = worker.hello.slots;
    row.leases = worker.leases;
    row.stuck_slots = worker.stuck_slots;
    row.draining = worker.draining;
    row.paused = worker.paused ? worker.pause_reason : "";
    row.tasks_done = worker.tasks_done;
    row.round_trip_us = microseconds(worker.round_trip);
    row.silent_ms = milliseconds(now - worker.last_heard);
    status.workers.push_back(std::move(row));
  });
}

void StatusReport::add_jobs(message::Status& status) const {
  for (const auto& [key, job] : books_.jobs()) {
    if (status.jobs.size() >= limits::kMaxStatusRows) break;
    std::string waiting = job->waiting.substr(0, limits::kMaxNameBytes);
    status.jobs.push_back({shown(*job->session), job->session->label, value(job->id),
                           job->spec.function.name, job->spec.priority, job->queued, job->leased,
                           job->done, job->failed, microseconds(job->mean_duration),
                           std::move(waiting)});
  }
  std::sort(status.jobs.begin(), status.jobs.end(), [](const auto& left, const auto& right) {
    return std::tuple(left.session.size(), left.session, left.job) <
           std::tuple(right.session.size(), right.session, right.job);
  });
}

void StatusReport::add_nodes(message::Status& status) const {
  if (nodes_.empty()) return;
  std::map<std::string_view, Duration> round_trips;  // by node
  books_.workers().each([&](WorkerIndex, const WorkerRecord& worker) {
    round_trips[worker.hello.node] = worker.round_trip;
  });
  for (const message::NodeStatus& node : nodes_) {
    if (status.nodes.size() >= limits::kMaxStatusRows) break;
    status.nodes.push_back(node);
    const auto found = round_trips.find(node.name);
    if (found != round_trips.end()) {
      status.nodes.back().round_trip_us = microseconds(found->second);
    }
  }
}

}  // namespace muster
