#include "worker/worker_options.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <stdexcept>

#include "worker/system/machine.hpp"

namespace muster {
namespace {

constexpr const char* kDescription =
    "Runs Muster tasks on this machine: connects to a broker, offers slots, and runs what it is\n"
    "given until it is told to stop.";
constexpr const char* kFooter =
    "Examples:\n"
    "  muster-worker --connect ipc:///run/user/1000/muster/broker\n"
    "      commands only, as many at once as this machine has cores\n"
    "  muster-worker --connect $MUSTER_BROKER --plugin ./libtasks.so --slots 4\n"
    "      also the native functions of a plug-in, each slot a process of its own\n"
    "  muster-worker --connect $MUSTER_BROKER --python ~/venv/bin/python\n"
    "      also Python functions, with the packages of that interpreter\n"
    "  muster-worker --connect tcp://broker.example.org:5670 --key node1.key --broker-key "
    "b.key.pub\n"
    "      for a broker on another machine: see `muster keygen`\n"
    "  muster-worker --connect $MUSTER_BROKER --plugin ./libtasks.so --executor thread\n"
    "      on threads of this process: fastest, but a crashing task ends the worker\n"
    "\n"
    "SIGTERM or Ctrl-C lets running tasks end and gives the others back; a second one ends at "
    "once.\n"
    "Exit codes: 0 told to stop, 2 cannot work here (one line on standard error says why).";

void declare_connection(CLI::App& app, WorkerOptions& options) {
  app.description(kDescription);
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("muster-worker " MUSTER_VERSION));
  app.set_config("--config", "", "TOML file with any of these options as KEY = VALUE, less the --")
      ->type_name("FILE");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_option("--connect", options.endpoint,
                 "The broker's endpoint, ipc:///path/to/socket or, with keys, tcp://HOST:PORT")
      ->envname("MUSTER_BROKER")
      ->type_name("ENDPOINT");
  app.add_option("--control", options.control, "For muster-worker attach")->group("");
  app.add_option("--key", options.key_file,
                 "This worker's key file, made with `muster keygen`; the broker has its public key "
                 "among the authorized workers")
      ->type_name("FILE");
  app.add_option("--broker-key", options.broker_key,
                 "The broker's public key: its .pub file, or the key itself")
      ->type_name("FILE|KEY");
  app.add_option("--secret", options.secret_file,
                 "Instead of keys, on a network that you trust: the broker's --trust-network file. "
                 "Nothing is encrypted then")
      ->type_name("FILE");
}

void declare_main(CLI::App& app, WorkerOptions& options) {
  app.add_option("--slots", options.slots, "Tasks to run at once (default: the number of cores)")
      ->check(CLI::Range(1U, limits::kMaxSlots))
      ->take_last()
      ->type_name("N");
  app.add_option("--executor", options.executor,
                 "How functions run: 'process' (a crash costs one task) or 'thread' (tasks share a "
                 "process; native functions the worker's own)")
      ->check(CLI::IsMember({"thread", "process"}))
      ->take_last()
      ->capture_default_str()
      ->type_name("KIND");
  app.add_option("--plugin", options.plugins,
                 "A shared library of native functions, built with <muster/task.hpp>; may be "
                 "given again for more")
      ->type_name("FILE");
  app.add_option("--python", options.python,
                 "The interpreter for Python functions, or 'none' (default: python3 of PATH, if it "
                 "has the package muster)")
      ->envname("MUSTER_PYTHON")
      ->take_last()
      ->type_name("PATH");
  app.add_option("--python-version", options.python_version,
                 "Its version, like 3.11, and a promise that it works: saves asking it at the "
                 "start")
      ->take_last()
      ->type_name("X.Y");
  app.add_option("--node", options.node, "This machine's name in reports (default: host name)")
      ->type_name("NAME");
  app.add_option("--lifeline", options.lifeline,
                 "End when the pipe on this descriptor is closed: for programs that start workers")
      ->type_name("FD");
  app.add_option("--drain-timeout", options.drain_timeout_seconds,
                 "How long running tasks may go on after SIGTERM")
      ->check(CLI::Range(0U, 86'400U))
      ->capture_default_str()
      ->type_name("SECONDS");
  app.add_option("--max-result", options.max_result_bytes,
                 "The largest result of a function with all of its parts, e.g. 100MiB; a larger "
                 "one is an error of its task")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{1}, limits::kMaxResultBytes))
      ->capture_default_str()
      ->type_name("BYTES");
  app.add_option("--log-level", options.log_level, "What to write to standard error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str()
      ->type_name("LEVEL");
}

void declare_limits(CLI::App& app, WorkerOptions& options) {
  app.add_option("--max-cores", options.max_cores,
                 "Keep the worker, and all that it starts, on so many cores")
      ->check(CLI::Range(1U, limits::kMaxSlots))
      ->take_last()
      ->type_name("N");
  app.add_option("--memory", options.memory_bytes,
                 "Memory that its tasks may use together, e.g. 32GiB (default: the machine's, or "
                 "the limit of its cgroup)")
      ->transform(CLI::AsSizeValue(false))
      ->take_last()
      ->type_name("BYTES");
  app.add_option("--max-memory", options.max_memory_bytes, "At most so much of it")
      ->transform(CLI::AsSizeValue(false))
      ->take_last()
      ->type_name("BYTES");
  app.add_flag("--enforce-memory", options.enforce_memory,
               "End a task that uses more than its slots' share of the memory, unless its job asks "
               "for more");
  app.add_option("--blob-memory", options.blob_memory_bytes,
                 "Memory for copies of large data that tasks share, e.g. 8GiB, when the broker is "
                 "on another machine (default: a quarter of the node's, at most half of what "
                 "is free in /dev/shm)")
      ->envname("MUSTER_BLOB_MEMORY")
      ->transform(CLI::AsSizeValue(false))
      ->take_last()
      ->type_name("BYTES");
  app.add_option("--blob-disk", options.blob_disk_bytes,
                 "Disk for what does not fit there (default: half of what is free in ~/.cache)")
      ->envname("MUSTER_BLOB_DISK")
      ->transform(CLI::AsSizeValue(false))
      ->take_last()
      ->type_name("BYTES");
  app.add_option("--gpus", options.gpus,
                 "GPUs for tasks that ask for them: how many, which (0,2 as in "
                 "CUDA_VISIBLE_DEVICES), or 'none' (default: those of CUDA_VISIBLE_DEVICES, or "
                 "else /dev/nvidia0 and so on)")
      ->take_last()
      ->type_name("N|LIST");
  app.add_option("--label", options.labels,
                 "A word that jobs can ask for; may be given again for more")
      ->type_name("NAME");
  app.add_option("--nice", options.nice, "Run everything at this lower priority")
      ->check(CLI::Range(0, 19))
      ->take_last()
      ->type_name("N");
  app.add_option("--pause-load", options.pause_load,
                 "Start nothing while other programs keep so many cores busy, e.g. 1.5")
      ->check(CLI::PositiveNumber)
      ->take_last()
      ->type_name("CORES");
}

}  // namespace

void declare_options(CLI::App& app, WorkerOptions& options) {
  declare_connection(app, options);
  declare_main(app, options);
  declare_limits(app, options);
}

void check_labels(const std::vector<std::string>& labels) {
  if (labels.size() > limits::kMaxLabels) {
    throw std::runtime_error("more than " + std::to_string(limits::kMaxLabels) +
                             " --label: keep those that jobs ask for");
  }
  for (const std::string& label : labels) {
    if (label.empty() || label.size() > limits::kMaxNameBytes) {
      throw std::runtime_error("--label '" + label + "' must have 1 to 512 bytes");
    }
  }
}

void settle_limits(WorkerOptions& options) {
  if (options.max_cores > 0) limit_cores(options.max_cores);
  if (options.nice > 0) ::setpriority(PRIO_PROCESS, 0, options.nice);
  if (options.slots == 0) options.slots = usable_cores();
  if (options.memory_bytes == 0) options.memory_bytes = usable_memory();
  if (options.max_memory_bytes > 0) {
    options.memory_bytes = options.memory_bytes == 0
                               ? options.max_memory_bytes
                               : std::min(options.memory_bytes, options.max_memory_bytes);
  }
}

}  // namespace muster
