// The options of a pool (Options) and of a job (JobOptions). Part of the producer's public face;
// plain values.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#define MUSTER_API __attribute__((visibility("default")))

namespace muster {

// Where native functions run: on threads of the worker, or in processes that contain crashes.
enum class Executor { thread, process };

struct Options {
  // Where the broker listens, "ipc:///path". Empty: what the environment variable MUSTER_BROKER
  // names; if it is not set, your running broker (`muster up` starts it), unless an option below
  // shapes an embedded pool; else an embedded pool: private broker and workers on this machine.
  std::string endpoint = {};
  // Shown in `muster status`. Empty: program name and process id.
  std::string label = {};

  // --- Embedded pool only ---
  bool embedded = false;                  // true: never use a broker that runs already
  unsigned workers = 1;                   // nodes on this machine, 256 at most; 0: only `hosts`
  unsigned slots = 0;                     // of each worker; 0: the number of processors
  Executor executor = Executor::thread;   // process: a crash of a task harms nothing else
  std::vector<std::string> plugins = {};  // paths of plug-in libraries; `hosts` get them, too
  // The interpreter that runs python functions, and its version ("3.11"); empty: none does.
  std::string python = {};
  std::string python_version = {};
  // Added to the environment of the broker and the workers.
  std::vector<std::pair<std::string, std::string>> environment = {};
  // The folder in which values that programs cache in the pool (docs/joblib.md, "Memory") outlive
  // it. One pool at a time may use it. Empty: they end with the pool.
  std::string spool = {};
  // The folder of muster-broker and muster-worker. Empty: they are looked for (docs/producer.md).
  std::string programs = {};
  // Machines that the pool reaches by ssh, too: the text of a hosts file (docs/hosts.md), and its
  // name for messages. Relative paths in it count from the folder of an absolute `hosts_origin`.
  std::string hosts = {};
  std::string hosts_origin = {};
  // false: the constructor does not wait for these machines; status() shows how far they are.
  bool await_hosts = true;

  // --- Waiting ---
  // How long the constructor waits for the broker's WELCOME, and for an embedded pool's workers:
  // all on this machine; with `hosts` and none there, the first on any of them. Where nobody
  // listens it waits 10 s at most.
  std::chrono::milliseconds connect_timeout{30'000};
  // If the broker is silent for longer, every wait ends with ErrorCode::disconnected. Nothing:
  // waits have no limit, even if the broker's machine sleeps for a night. After half a minute of
  // silence a line on standard error says since when, and another one when the broker is back. In
  // both cases a silence that ends (a restart, a network break) does no harm: what was in flight is
  // sent again.
  std::optional<std::chrono::milliseconds> broker_timeout = {};
};

// The broker that a producer uses if its options name none: the value of MUSTER_BROKER (empty: it
// wants an embedded pool); if that is not set, your running broker; else empty.
MUSTER_API std::string default_endpoint();

// How the tasks of a job run.
struct JobOptions {
  std::chrono::milliseconds timeout{0};  // per task, from its start on a slot; 0: none
  std::uint32_t retries = 0;             // runs again after an error or time-out, this many times
  std::int32_t priority = 0;             // higher runs first
  std::uint32_t crash_budget = 3;        // losses while running before the task ends as lost
  // At most this many tasks of the job run (or wait on a worker) at once; 0: as the pool has slots.
  std::uint32_t max_running = 0;
  // What one task takes; a task that needs more than a slot's share of its worker's cores or memory
  // takes as many slots as cover it (docs/producer.md). Outcomes of kind "no_worker" end tasks that
  // fit nowhere, "out_of_memory" those that use more memory than this.
  double cpus = 0;                       // cores, in thousandths at the finest; 0: one slot's share
  std::uint64_t memory_bytes = 0;        // limit and reservation; 0: no limit of its own
  std::uint32_t gpus = 0;                // named to the task by CUDA_VISIBLE_DEVICES
  std::vector<std::string> labels = {};  // only workers that have all of these
  bool forward_output = false;  // what the tasks print and log comes to Producer::next_output()
  // Plug-in libraries whose functions the tasks use: sent to the nodes, once each, and loaded
  // there.
  std::vector<std::string> ship = {};
  // map and Stream: at most this many tasks between the oldest missing and the newest submitted.
  std::size_t window = 16'384;
  // ... and at most this many bytes of their payloads, blobs and results. Blobs that several of
  // them share do not count, and a few tasks more than the pool has slots are always under way.
  std::size_t window_bytes = std::size_t{128} << 20;
};

// The order in which results come.
enum class Order { submission, completion };

// What a task runs: a native function of a plug-in, a command, or a Python callable.
struct FunctionName {
  std::string name;
  bool command = false;
  std::string python = {};  // not empty: a callable for this interpreter ("3.11"); `name` labels it
  Bytes body = {};          // the pickled callable, which gets each payload
  std::vector<Blob> blobs = {};        // those that the body names
  std::vector<std::string> ship = {};  // native: as JobOptions::ship
};

}  // namespace muster
