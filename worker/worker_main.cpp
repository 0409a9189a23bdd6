// muster-worker: the daemon that runs tasks on one machine.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
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

#include "common/net/key_file.hpp"
#include "common/net/transport.hpp"
#include "common/system/descriptor.hpp"
#include "common/system/descriptor_limit.hpp"
#include "worker/agent/agent.hpp"
#include "worker/attach/attach.hpp"
#include "worker/attach/attach_config.hpp"
#include "worker/attach/control.hpp"
#include "worker/blobs/node_blobs.hpp"
#include "worker/executors/python.hpp"
#include "worker/executors/task_router.hpp"
#include "worker/loop.hpp"
#include "worker/runner/plugin.hpp"
#include "worker/system/clock.hpp"
#include "worker/system/machine.hpp"
#include "worker/worker_options.hpp"

namespace muster {
namespace {

constexpr int kUnusable = 2;

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
  ::signal(SIGCHLD, SIG_DFL);  // ignored, as some parents leave it, it would hide exit statuses
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
Login login_of(const WorkerOptions& options, std::string& proof) {
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

// Where tasks find blobs. A worker that has no place for it still runs tasks without any.
void make_folder(const WorkerOptions& options, const WorkerId& worker,
                 std::optional<NodeBlobs>& blobs) {
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

int run(const WorkerOptions& options, int signals) {
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
  muster::WorkerOptions options;
  options.service = muster::take_service_manager();
  CLI::App app;
  muster::declare_options(app, options);
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : muster::kUnusable;
  }
  muster::settle_limits(options);
  if (options.node.empty()) options.node = muster::host_name();
  muster::keep_large_buffers();
  muster::raise_descriptor_limit();
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
