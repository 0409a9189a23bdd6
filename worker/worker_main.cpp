// muster-worker: the daemon that runs tasks on one machine.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "common/descriptor.hpp"
#include "common/key_file.hpp"
#include "common/transport.hpp"
#include "worker/agent.hpp"
#include "worker/attach.hpp"
#include "worker/attach_config.hpp"
#include "worker/clock.hpp"
#include "worker/control.hpp"
#include "worker/loop.hpp"
#include "worker/machine.hpp"
#include "worker/node_blobs.hpp"
#include "worker/plugin.hpp"
#include "worker/python.hpp"
#include "worker/task_router.hpp"

namespace muster {
namespace {

constexpr int kUnusable = 2;

struct Options {
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

void declare(CLI::App& app, Options& options) {
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

void declare_limits(CLI::App& app, Options& options) {
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

// Multi-megabyte payloads come and go all the time. By default glibc maps each one afresh and
// returns it to the kernel, which costs a page fault per 4 KiB; this keeps such buffers for reuse.
void keep_large_buffers() {
  ::mallopt(M_MMAP_THRESHOLD, 256 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

// Blocks the signals for all threads; they arrive through the descriptor.
Descriptor take_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return Descriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

WorkerId random_id() {
  std::random_device device;
  const auto word = [&] { return std::uint64_t{device()} << 32 | device(); };
  return {word() | 1, word()};
}

// `proof`: what the broker must answer; empty: its key proves who it is.
Login login_of(const Options& options, std::string& proof) {
  if (!options.secret_file.empty()) {
    if (!options.key_file.empty() || !options.broker_key.empty()) {
      throw TransportError("--secret and keys (--key, --broker-key) exclude each other");
    }
    SharedSecret secret = read_secret_file(options.secret_file);
    proof = std::move(secret.proof);
    return PlainLogin{std::move(secret.name), std::move(secret.password), true};
  }
  if (options.key_file.empty() && options.broker_key.empty()) return {};
  if (options.key_file.empty() || options.broker_key.empty()) {
    throw TransportError(
        "--key (this worker's key file) and --broker-key (the broker's public key) belong "
        "together");
  }
  KeyPair own = read_key_file(options.key_file);
  return CurveLogin{read_public_key(options.broker_key), std::move(own.public_key),
                    std::move(own.secret_key)};
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

// Takes less of the machine than there is; before anything is started.
void settle_limits(Options& options) {
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

// Where tasks find blobs. A worker that has no place for it still runs tasks without any.
void make_folder(const Options& options, const WorkerId& worker, std::optional<NodeBlobs>& blobs) {
  try {
    NodeBlobsOptions made;
    made.folder = {worker, memory_root_of_user(), cache_folder() + "/blobs", cache_folder()};
    made.memory_bytes = options.blob_memory_bytes;
    made.disk_bytes = options.blob_disk_bytes;
    made.node_memory_bytes = options.memory_bytes;
    blobs.emplace(std::move(made));
  } catch (const std::exception& error) {
    spdlog::warn("tasks with large data cannot run here: {}", error.what());
  }
}

int run(const Options& options, int signals) {
  std::string proof;
  const Login login = login_of(options, proof);
  std::optional<Control> control;
  if (options.control >= 0) {
    control.emplace(Descriptor(options.control));
    install_attached_logger(&*control);
  } else if (options.endpoint.empty()) {
    throw TransportError("--connect is needed: the broker's endpoint, or MUSTER_BROKER");
  } else {
    check_endpoint(options.endpoint, login);
  }
  if (options.lifeline >= 0 && ::fcntl(options.lifeline, F_SETFD, FD_CLOEXEC) != 0) {
    throw TransportError("--lifeline " + std::to_string(options.lifeline) +
                         " is not an open descriptor: pass the reading end of a pipe");
  }
  FunctionRegistry functions(options.max_result_bytes);
  for (const std::string& plugin : options.plugins) functions.load(plugin);
  check_labels(options.labels);
  const std::vector<std::string> gpus = find_gpus(options.gpus);
  const Python python = find_python(options.python, options.python_version);
  const std::uint32_t cores = usable_cores();
  const WorkerId worker = random_id();
  std::optional<NodeBlobs> blobs;
  make_folder(options, worker, blobs);
  AgentOptions agent_options;
  agent_options.worker = worker;
  agent_options.proof = std::move(proof);
  agent_options.node = options.node;
  agent_options.executor = options.executor;
  agent_options.process_id = static_cast<std::uint32_t>(::getpid());
  agent_options.slots = options.slots;
  agent_options.cores = cores;
  agent_options.memory_bytes = options.memory_bytes;
  agent_options.gpus = static_cast<std::uint32_t>(gpus.size());
  agent_options.labels = options.labels;
  agent_options.python = python.version;
  agent_options.functions = functions.names();
  Agent agent(std::move(agent_options));
  StoreRelay stores;
  std::optional<TaskRouter> executor;
  const MemoryRule memory{options.enforce_memory ? options.memory_bytes / options.slots : 0,
                          options.slots, cores};
  executor.emplace(
      TaskRouterOptions{options.executor, options.slots, options.plugins, options.node,
                        options.max_result_bytes, python, cores, gpus, memory, &stores},
      functions);
  LoopOptions loop_options;
  if (control) {
    loop_options.control = &*control;
  } else {
    loop_options.endpoint = options.endpoint;
    loop_options.login = login;
  }
  if (blobs) loop_options.blobs = &*blobs;
  loop_options.signals = signals;
  loop_options.lifeline = options.lifeline;
  loop_options.drain_timeout = std::chrono::seconds(options.drain_timeout_seconds);
  loop_options.pause_load = options.pause_load;
  loop_options.stores = &stores;
  loop_options.service = options.service;
  WorkerLoop loop(std::move(loop_options), agent, *executor);
  const int exit_code = loop.run();
  executor.reset();  // ends what runs
  blobs.reset();
  // Not through static destructors: a thread task that never returned may still run.
  std::fflush(nullptr);
  ::_exit(exit_code);
}

}  // namespace
}  // namespace muster

int main(int argument_count, char** arguments) {
  if (argument_count == 2 && std::string_view(arguments[1]) == "attach") {
    return muster::run_attach();
  }
  muster::Options options;
  options.service = muster::take_service_manager();
  CLI::App app;
  muster::declare(app, options);
  muster::declare_limits(app, options);
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : muster::kUnusable;
  }
  muster::settle_limits(options);
  if (options.node.empty()) options.node = muster::host_name();
  muster::keep_large_buffers();
  if (options.control >= 0) ::signal(SIGHUP, SIG_IGN);  // the ssh session's end is not ours
  const muster::Descriptor signals = muster::take_signals();
  spdlog::set_default_logger(spdlog::stderr_logger_st("muster-worker"));
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  try {
    return muster::run(options, signals.get());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "muster-worker: %s\n", error.what());
    return muster::kUnusable;
  }
}
