#include "producer/session/status_json.hpp"

#include <nlohmann/json.hpp>

namespace muster {
namespace {

using Json = nlohmann::ordered_json;

Json to_object(const message::WorkerStatus& worker) {
  return {{"worker", worker.worker},
          {"node", worker.node},
          {"executor", worker.executor},
          {"python", worker.python},
          {"process_id", worker.process_id},
          {"cores", worker.cores},
          {"slots", worker.slots},
          {"leases", worker.leases},
          {"stuck_slots", worker.stuck_slots},
          {"draining", worker.draining},
          {"paused", worker.paused},
          {"memory_bytes", worker.memory_bytes},
          {"gpus", worker.gpus},
          {"labels", worker.labels},
          {"tasks_done", worker.tasks_done},
          {"round_trip_us", worker.round_trip_us},
          {"silent_ms", worker.silent_ms}};
}

Json to_object(const message::JobStatus& job) {
  return {{"session", job.session},   {"label", job.label},       {"job", job.job},
          {"function", job.function}, {"priority", job.priority}, {"queued", job.queued},
          {"leased", job.leased},     {"done", job.done},         {"failed", job.failed},
          {"mean_us", job.mean_us},   {"waiting", job.waiting}};
}

Json to_object(const message::NodeStatus& node) {
  return {{"name", node.name},
          {"address", node.address},
          {"via", node.via},
          {"state", node.state},
          {"step", node.step},
          {"detail", node.detail},
          {"state_ms", node.state_ms},
          {"bytes_in", node.bytes_in},
          {"bytes_out", node.bytes_out},
          {"round_trip_us", node.round_trip_us},
          {"reconnects", node.reconnects}};
}

}  // namespace

std::string to_json(const message::Status& status) {
  Json workers = Json::array();
  for (const auto& worker : status.workers) workers.push_back(to_object(worker));
  Json jobs = Json::array();
  for (const auto& job : status.jobs) jobs.push_back(to_object(job));
  Json nodes = Json::array();
  for (const auto& node : status.nodes) nodes.push_back(to_object(node));
  Json counters = Json::object();
  for (const auto& [name, count] : status.counters) counters[name] = count;
  const Json object = {{"software_version", status.software_version},
                       {"incarnation", status.incarnation},
                       {"uptime_ms", status.uptime_ms},
                       {"total_slots", status.total_slots},
                       {"sessions", status.sessions},
                       {"workers", std::move(workers)},
                       {"jobs", std::move(jobs)},
                       {"counters", std::move(counters)},
                       {"nodes", std::move(nodes)}};
  // A peer chose some of these texts: what is not UTF-8 is shown as U+FFFD.
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace muster
