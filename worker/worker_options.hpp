// The options of muster-worker: of its command line, its environment and its --config file. A plain
// value that main() owns.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/protocol/limits.hpp"
#include "common/system/service_notify.hpp"

namespace muster {

struct WorkerOptions {
  std::string endpoint;
  int control = -1;  // a listening socket: `muster-worker attach` started this worker
  std::string key_file;
  std::string broker_key;
  std::string secret_file;
  std::uint32_t slots = 0;
  std::string executor = "process";
  std::vector<std::string> plugins;
  std::string python;
  std::string python_version;
  std::string node;
  int lifeline = -1;
  std::uint32_t drain_timeout_seconds = 10;
  std::uint64_t max_result_bytes = limits::kMaxResultBytes;
  std::string log_level = "warn";
  // What of the machine it takes.
  std::uint32_t max_cores = 0;     // 0: all
  std::uint64_t memory_bytes = 0;  // 0: as the machine says
  std::uint64_t max_memory_bytes = 0;
  bool enforce_memory = false;
  std::string gpus;
  std::vector<std::string> labels;
  int nice = 0;
  double pause_load = 0;
  std::optional<std::uint64_t> blob_memory_bytes;
  std::optional<std::uint64_t> blob_disk_bytes;
  ServiceManager service;
};

// `options` outlives the parsing.
void declare_options(CLI::App& app, WorkerOptions& options);

// Takes less of the machine than there is; before anything is started.
void settle_limits(WorkerOptions& options);

// Throws std::runtime_error.
void check_labels(const std::vector<std::string>& labels);

}  // namespace muster
