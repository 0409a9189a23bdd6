// muster-broker: options, wiring, exit codes. 0: ended as asked; 2: cannot start.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "broker/blobs/blob_store.hpp"
#include "broker/door/authenticator.hpp"
#include "broker/door/endpoints.hpp"
#include "broker/loop.hpp"
#include "broker/nodes/doctor.hpp"
#include "common/net/connection_gate.hpp"
#include "common/system/descriptor_limit.hpp"

namespace {

constexpr const char* kDescription =
    "muster-broker: takes tasks from producers and leases them to workers.\n\n"
    "Programs and `muster run` start a private broker by themselves when they are given none; "
    "start\n"
    "this one to share a pool between programs, or to keep it while they come and go:\n\n"
    "  muster-broker --listen ipc:///run/user/1000/muster/broker &\n"
    "  muster-worker --connect ipc:///run/user/1000/muster/broker --slots 8 &\n"
    "  export MUSTER_BROKER=ipc:///run/user/1000/muster/broker\n"
    "  seq 100 | muster run -- echo {}\n\n"
    "SIGTERM or Ctrl-C ends it. After a crash start it again with the same --listen: producers "
    "and\n"
    "workers come back by themselves, nothing is lost and running tasks are not repeated (finished "
    "ones\n"
    "whose outcome had not reached its producer are).\n"
    "Exit codes: 0 told to stop, 2 cannot start (one line on standard error says why).";

muster::Incarnation new_incarnation() {
  std::random_device random;
  const auto word = [&] { return std::uint64_t{random()} << 32 | random(); };
  return {word(), word() | 1};
}

struct CommandLine {
  std::vector<std::string> listen;
  int lifeline = -1;
  bool private_folder = false;
  std::string key_file;
  std::string authorized_workers;
  std::string trust_network;
  std::vector<std::string> worker_users;
  std::string hosts;
  std::string remember_nodes;
  std::vector<std::string> node_plugins;
  bool pack = false;
  std::string log_level = "info";
  double heartbeat_seconds = 2;
  std::uint32_t heartbeat_misses = muster::limits::kHeartbeatMisses;
  std::uint64_t credit_tasks = muster::limits::kCreditTasks;
  std::uint64_t credit_bytes = muster::limits::kCreditBytes;
  double session_grace_seconds = 60;
  std::optional<std::uint64_t> blob_memory;
  std::optional<std::uint64_t> blob_disk;
  std::string blob_folder;
  bool blob_group = false;
  double no_worker_seconds = 60;
  std::string spool;
  std::uint64_t store_limit_bytes = 0;
  double unknown_function_seconds = 2;
};

void describe_peers(CLI::App& app, CommandLine& line) {
  app.set_version_flag("--version", MUSTER_VERSION);
  app.set_config("--config", "", "TOML file with any of these options as KEY = VALUE, less the --")
      ->type_name("FILE");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_option("--listen", line.listen,
                 "Endpoint, ipc:///path/to/socket or (for workers with a key) tcp://ADDRESS:PORT; "
                 "may be repeated")
      ->type_name("ENDPOINT")
      ->required()
      ->envname("MUSTER_BROKER");
  app.add_option("--key", line.key_file, "The broker's key file, made with `muster keygen`")
      ->type_name("FILE");
  app.add_option("--authorized-workers", line.authorized_workers,
                 "The workers that may come by TCP, a line `PUBLIC_KEY NAME` each; SIGHUP reads it "
                 "again")
      ->type_name("FILE");
  app.add_option("--trust-network", line.trust_network,
                 "Workers come by TCP with the secret of this file (`muster keygen --secret FILE`) "
                 "and nothing is encrypted: for a network that you trust, such as a VPN or a "
                 "cluster's own")
      ->type_name("FILE");
  app.add_option("--worker-users", line.worker_users,
                 "Users of this machine (names or numbers, separated by commas) whose workers may "
                 "come by the Unix socket, besides the broker's own user and root; they see and "
                 "answer what everybody submits")
      ->delimiter(',')
      ->type_name("USERS");
  app.add_option("--hosts", line.hosts,
                 "Bring up the machines of this hosts file, reached by ssh (docs/hosts.md)")
      ->type_name("FILE");
  app.add_option(
         "--remember-nodes", line.remember_nodes,
         "Keep in this file which machines programs brought up, for the next broker after a "
         "crash (`muster up` does)")
      ->type_name("FILE");
  app.add_option("--node-plugin", line.node_plugins,
                 "A library of native functions for every machine reached by ssh; may be repeated")
      ->type_name("FILE");
}

void describe_limits(CLI::App& app, CommandLine& line) {
  app.add_option("--heartbeat-interval", line.heartbeat_seconds, "Seconds between heartbeats")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app.add_option("--heartbeat-misses", line.heartbeat_misses,
                 "Silent intervals after which a worker counts as lost")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  app.add_option("--credit-tasks", line.credit_tasks, "Tasks held for one producer, at most")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1'000'000'000}))
      ->capture_default_str();
  app.add_option("--credit-bytes", line.credit_bytes,
                 "Payload bytes held for one producer, at most (and as many of outcomes)")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--blob-memory", line.blob_memory,
                 "Bytes of large data (blobs) kept in /dev/shm, at most; default: a quarter of the "
                 "memory, and no more than half of what is free there")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("BYTES");
  app.add_option("--blob-disk", line.blob_disk,
                 "Bytes of blobs kept on disk, at most, beyond those in memory; default: half of "
                 "what is free there")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("BYTES");
  app.add_option("--blob-folder", line.blob_folder,
                 "Where blobs lie on disk (default: $XDG_CACHE_HOME/muster/blobs or "
                 "~/.cache/muster/blobs)")
      ->type_name("DIR");
  app.add_flag("--blob-group", line.blob_group,
               "Let the group of this process use the folders of blobs (for a broker that several "
               "users share)");
  app.add_option("--session-grace", line.session_grace_seconds,
                 "Seconds that a producer may be away before its tasks are dropped")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--no-worker-timeout", line.no_worker_seconds,
                 "Seconds until tasks fail because no worker is connected")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--unknown-function-timeout", line.unknown_function_seconds,
                 "Seconds until tasks fail because no connected worker offers their function")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

// An option that has another name today: says which, instead of "unknown option".
void refuse_former(CLI::App& app, const std::string& former, const std::string& now) {
  app.add_option_function<std::string>(
         former,
         [=](const std::string&) { throw CLI::ValidationError(former, "is now called " + now); })
      ->group("");
}

void describe_conduct(CLI::App& app, CommandLine& line) {
  app.add_option(
         "--spool", line.spool,
         "Keep the values that programs cache in the pool (joblib's Memory) in this folder, "
         "beyond the broker's end; default: in one that ends with it")
      ->type_name("FOLDER");
  app.add_option("--store-limit", line.store_limit_bytes,
                 "Bytes of such values, at most; the least recently used ones go first (default: a "
                 "quarter of what the disk has free, at most 10 GiB)")
      ->transform(CLI::AsSizeValue(false));
  refuse_former(app, "--memo-limit", "--store-limit");
  app.add_flag("--pack", line.pack,
               "Let producers compress payloads, because workers are behind slow links (with TCP "
               "endpoints they do anyway)");
  app.add_option("--lifeline", line.lifeline,
                 "File descriptor whose end of file ends the broker (for parents)");
  app.add_flag("--private", line.private_folder,
               "Remove the folder of the first endpoint at the end, if it is empty (for parents)");
  app.add_option("--log-level", line.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
}

muster::Duration seconds(double count) {
  return std::chrono::duration_cast<muster::Duration>(std::chrono::duration<double>(count));
}

muster::BrokerOptions to_options(const CommandLine& line) {
  muster::BrokerOptions options;
  options.endpoints = {line.listen, line.private_folder, line.key_file, line.authorized_workers,
                       line.trust_network};
  options.worker_users = line.worker_users;
  options.lifeline = line.lifeline;
  options.hosts = line.hosts;
  options.remember_nodes = line.remember_nodes;
  options.node_plugins = line.node_plugins;
  options.stores.folder = line.spool;
  options.stores.limit_bytes = line.store_limit_bytes;
  options.blobs = {line.blob_memory, line.blob_disk, line.blob_folder, line.blob_group,
                   !line.private_folder};
  muster::SchedulerOptions& scheduler = options.scheduler;
  scheduler.incarnation = new_incarnation();
  scheduler.software_version = MUSTER_VERSION;
  scheduler.worker_hint = "muster-worker --connect " + muster::first_local(line.listen);
  scheduler.pack = line.pack || !line.key_file.empty() || !line.trust_network.empty();
  scheduler.heartbeat_interval =
      std::chrono::duration_cast<std::chrono::milliseconds>(seconds(line.heartbeat_seconds));
  scheduler.heartbeat_misses = line.heartbeat_misses;
  scheduler.credit_tasks = line.credit_tasks;
  scheduler.credit_bytes = line.credit_bytes;
  scheduler.session_grace = seconds(line.session_grace_seconds);
  scheduler.no_worker_timeout = seconds(line.no_worker_seconds);
  scheduler.unknown_function_timeout = seconds(line.unknown_function_seconds);
  return options;
}

// Connections leave some descriptors for tunnels, files and whatever else has begun.
int ceiling_of_connections(std::uint64_t limit) {
  constexpr std::uint64_t kReserve = 128;
  constexpr std::uint64_t kMost = 1 << 20;
  const std::uint64_t reserve = std::min(kReserve, limit / 4);
  return static_cast<int>(std::min(limit - reserve, kMost));
}

// Blocks the signals for all threads; they arrive through the descriptor.
int take_signals(bool with_hangup) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (with_hangup) sigaddset(&signals, SIGHUP);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

// Blocks for the life of the process. Throws TransportError when an endpoint cannot be used.
void serve(const muster::BrokerOptions& options) {
  if (options.lifeline >= 0 && fcntl(options.lifeline, F_SETFD, FD_CLOEXEC) != 0) {
    throw muster::TransportError("--lifeline " + std::to_string(options.lifeline) +
                                 " is not an open descriptor: pass the reading end of a pipe");
  }
  const int signals = take_signals(!options.endpoints.authorized_workers.empty());
  muster::TransportContext context;
  muster::Authenticator authenticator(context);
  muster::Endpoints endpoints(options.endpoints, context, authenticator);
  muster::NodePoolOptions node_options;
  node_options.tunnel_socket = endpoints.tunnel_socket();
  node_options.curve_socket = endpoints.tunnel_curve_socket();
  node_options.curve_server_key = endpoints.server_key();
  node_options.plugins = options.node_plugins;
  node_options.knows_workers =
      !options.endpoints.key_file.empty() && !options.endpoints.authorized_workers.empty();
  muster::NodesControl nodes(node_options, muster::first_local(options.endpoints.listen),
                             authenticator);
  if (!options.hosts.empty()) nodes.up_file(options.hosts);
  if (!options.remember_nodes.empty()) nodes.remember(options.remember_nodes);
  muster::BlobStore blobs(options.blobs, muster::first_local(options.endpoints.listen));
  muster::StoreServer stores(options.stores);
  muster::BrokerLoop(options, signals, endpoints, authenticator, nodes, blobs, stores).run();
}

int run(int argc, char** argv) {
  const std::uint64_t descriptors = muster::raise_descriptor_limit();
  muster::gate::set_ceiling(ceiling_of_connections(descriptors));
  muster::ServiceManager service = muster::take_service_manager();
  CLI::App app(kDescription, "muster-broker");
  CommandLine line;
  describe_peers(app, line);
  describe_limits(app, line);
  describe_conduct(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  spdlog::set_default_logger(spdlog::stderr_logger_mt("broker"));
  spdlog::set_level(spdlog::level::from_str(line.log_level));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e muster-broker %l: %v");
  // glibc gives each large buffer back to the kernel and faults it in again: keep them instead.
  mallopt(M_MMAP_THRESHOLD, 256 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  muster::BrokerOptions options = to_options(line);
  options.service = std::move(service);
  serve(options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string tool = argc > 1 ? argv[1] : "";
    if (tool == "doctor" || tool == "clean") return muster::run_node_tool(argc, argv);
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "muster-broker: %s\n", error.what());
    return 2;
  }
}
