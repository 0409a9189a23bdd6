// What the broker's scheduler can be told: limits, intervals, patience. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/limits.hpp"
#include "common/time.hpp"

namespace muster {

class BlobFiles;

struct SchedulerOptions {
  Incarnation incarnation;
  std::string software_version;
  // How a person starts a worker for this broker; part of error texts.
  std::string worker_hint = "muster-worker --connect ENDPOINT";
  std::chrono::milliseconds heartbeat_interval = limits::kHeartbeatInterval;
  std::uint32_t heartbeat_misses = limits::kHeartbeatMisses;
  std::uint64_t credit_tasks = limits::kCreditTasks;  // per session
  std::uint64_t credit_bytes = limits::kCreditBytes;  // per session
  // A producer whose connection ended keeps its tasks for so long. One that is only silent (it was
  // stopped) keeps them as long as its connection lives.
  Duration session_grace = std::chrono::seconds(60);
  // Tasks fail with kind "no_worker" when for so long no worker is connected …
  Duration no_worker_timeout = std::chrono::seconds(60);
  // … and with "unknown_function", "wrong_interpreter" or "no_worker" when workers are connected
  // but none offers the function, has its Python, or has the labels and resources that a task asks
  // for: long enough for the other workers of a pool that is just starting.
  Duration unknown_function_timeout = std::chrono::seconds(2);
  // After a broker's start, sessions of an earlier incarnation lease nothing for so long, so that
  // workers can report what they already run: a little more than the longest reconnect interval.
  Duration resume_wait = std::chrono::milliseconds(2500);
  bool pack = false;  // workers may be on other machines: what WELCOME tells producers
  // Acknowledgements to a worker wait for tasks that go there, so long at most: a lone task then
  // costs one message less.
  Duration acknowledgement_window = limits::kAcknowledgementWindow;
  // What keeps the bytes of blobs; outlives the scheduler. None (simulators): every blob is there.
  BlobFiles* blobs = nullptr;
  std::vector<std::string> blob_folders = {};  // what WELCOME says of them
  std::string blob_token = {};
  std::uint64_t credit_blob_bytes = std::uint64_t{1} << 62;  // per session
  std::uint64_t credit_memory_bytes = 0;
};

}  // namespace muster
