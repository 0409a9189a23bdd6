#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <muster/producer.hpp>
#include <mutex>
#include <utility>

#include "common/net/store_future.hpp"
#include "common/printable.hpp"
#include "producer/client/channel.hpp"
#include "producer/client/discovery.hpp"
#include "producer/client/future.hpp"
#include "producer/client/job_spec.hpp"
#include "producer/client/outcome_error.hpp"
#include "producer/client/stream.hpp"
#include "producer/embedded/embedded.hpp"
#include "producer/session/invalid_call.hpp"
#include "producer/session/status_json.hpp"

namespace muster {
namespace detail {

// Declaration order is the order of construction: the pool ends after the connection to it.
struct ProducerState {
  std::unique_ptr<Embedded> embedded;
  std::string endpoint;
  std::shared_ptr<Client> client;
  std::mutex mutex;
  std::map<std::pair<bool, std::string>, std::shared_ptr<JobState>> default_jobs;
};

namespace {

using Clock = std::chrono::steady_clock;

// Whether an option says what an embedded pool is to be like, which a running one need not be.
bool shapes_pool(const Options& options) {
  const Options usual;
  return options.workers != usual.workers || options.slots != usual.slots ||
         options.executor != usual.executor || !options.plugins.empty() ||
         !options.python.empty() || !options.environment.empty() || !options.spool.empty();
}

// Empty: an embedded pool.
std::string endpoint_of(const Options& options) {
  if (!options.endpoint.empty()) {
    if (!options.embedded && options.hosts.empty()) return options.endpoint;
    throw invalid_call(
        "Options::embedded and hosts are for a pool without endpoint; give the hosts "
        "of a running broker to Producer::up()");
  }
  if (options.embedded || !options.hosts.empty()) return "";
  if (shapes_pool(options)) {
    const char* variable = std::getenv("MUSTER_BROKER");
    return variable == nullptr ? "" : variable;
  }
  return default_endpoint();
}

std::string label_of(const Options& options) {
  if (!options.label.empty()) return options.label.substr(0, limits::kMaxNameBytes);
  std::error_code ignored;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", ignored).filename().string();
  return fmt::format("{} ({})", program.substr(0, 200), ::getpid());
}

bool socket_exists(const std::string& endpoint) {
  constexpr std::string_view kPrefix = "ipc://";
  std::error_code ignored;
  return std::filesystem::exists(endpoint.substr(kPrefix.size()), ignored);
}

Error nobody_answered(const std::string& endpoint, Clock::duration waited) {
  return Error(ErrorCode::disconnected, "disconnected",
               fmt::format("no broker answered at {0} within {1:.1f} s; is muster-broker running? "
                           "start it with `muster-broker --listen {0}`, or set MUSTER_BROKER to "
                           "nothing to use a pool on this machine",
                           endpoint, std::chrono::duration<double>(waited).count()));
}

// Waits for WELCOME in steps, so that an embedded pool that does not start is noticed at once.
void connect(ProducerState& state, const Options& options, Clock::time_point deadline) {
  constexpr std::chrono::milliseconds kStep{20};
  constexpr std::chrono::milliseconds kStarting{500};  // a broker that was started just before us
  constexpr std::chrono::seconds kRestarting{10};      // one that left its socket when it ended
  const auto start = Clock::now();
  const auto no_socket = std::min(deadline, start + kStarting);
  while (!state.client->wait_connected(kStep)) {
    if (state.embedded) state.embedded->check_alive();
    if (!state.embedded && Clock::now() >= no_socket && !socket_exists(state.endpoint)) {
      throw Error(ErrorCode::disconnected, "disconnected",
                  fmt::format("no broker listens at {0}: there is no such socket; start one with "
                              "`muster-broker --listen {0}`, correct the path, or set "
                              "MUSTER_BROKER to nothing to use a pool on this machine",
                              state.endpoint));
    }
    if (Clock::now() >= deadline) throw nobody_answered(state.endpoint, options.connect_timeout);
    // A broker that listens may stand still for a while; if nobody listens, do not wait that long.
    const bool is_vacant =
        !state.embedded && Clock::now() >= start + kRestarting && !somebody_listens(state.endpoint);
    if (is_vacant) throw nobody_answered(state.endpoint, kRestarting);
  }
}

std::optional<message::Status> ask_status(Client& client, std::chrono::nanoseconds timeout) {
  auto answer = client.request_status();
  try {
    if (answer.wait_until(deadline_after(timeout)) != std::future_status::ready) return {};
    return answer.get();
  } catch (const std::future_error&) {
    throw Error(ErrorCode::disconnected, "closed", "the connection to the broker has ended");
  }
}

// Waits for every worker's slots, in steps as above.
void await_workers(ProducerState& state, Clock::time_point deadline) {
  constexpr std::chrono::milliseconds kStep{20};
  while (!state.client->wait_for_slots(state.embedded->total_slots(), kStep)) {
    state.embedded->check_alive();
    if (Clock::now() < deadline) continue;
    throw Error(ErrorCode::unusable, "unusable",
                fmt::format("{} of the embedded pool's {} slots connected within "
                            "Options::connect_timeout",
                            state.client->total_slots(), state.embedded->total_slots()));
  }
}

// Blocks until the broker has accepted the command; the names of the nodes.
std::vector<std::string> command_nodes(Client& client, NodeCommand command) {
  auto pending = client.request_nodes(std::move(command));
  try {
    message::NodesAnswer answer = pending.get();
    if (!answer.error.empty()) throw Error(ErrorCode::invalid, "nodes", printable(answer.error));
    return std::move(answer.names);
  } catch (const std::future_error&) {
    throw Error(ErrorCode::disconnected, "closed", "the connection to the broker has ended");
  }
}

std::vector<std::string> bring_up(ProducerState& state, const std::string& hosts,
                                  const std::string& origin) {
  if (hosts.size() > limits::kMaxHostsBytes) {
    throw invalid_call(fmt::format("{}: a hosts file has at most 4 MiB", origin));
  }
  if (origin.size() > limits::kMaxNameBytes) {
    throw invalid_call("the name of a hosts file has at most 512 bytes: " + origin);
  }
  if (state.embedded) state.embedded->has_nodes();
  return command_nodes(*state.client, message::NodesUp{hosts, origin});
}

// Waits for the first worker on any node; throws when no node can get one any more, or in time.
void await_nodes(ProducerState& state, Clock::time_point deadline) {
  constexpr std::chrono::milliseconds kStep{50};
  constexpr std::chrono::seconds kStatus{5};
  while (!state.client->wait_for_slots(1, kStep)) {
    state.embedded->check_alive();
    const auto status = ask_status(*state.client, kStatus);
    if (!status) continue;
    const bool late = Clock::now() >= deadline;
    const auto hopeless = [](const message::NodeStatus& node) { return node.state == "failed"; };
    if (!late && !std::all_of(status->nodes.begin(), status->nodes.end(), hopeless)) continue;
    std::string text = late ? "no node is up within Options::connect_timeout:" : "no node is up:";
    for (const message::NodeStatus& node : status->nodes) {
      text += fmt::format("\n{} ({}): {}: {}: {}", node.name, node.address, node.state, node.step,
                          node.detail);
    }
    throw Error(ErrorCode::unusable, "unusable", text);
  }
}

}  // namespace
}  // namespace detail

Producer::Producer(const Options& options) : state_(std::make_unique<detail::ProducerState>()) {
  const auto deadline = detail::deadline_after(options.connect_timeout);
  state_->endpoint = detail::endpoint_of(options);
  try {
    if (state_->endpoint.empty()) {
      state_->embedded = std::make_unique<detail::Embedded>(options);
      state_->endpoint = state_->embedded->endpoint();
    }
    state_->client = std::make_shared<detail::Client>(
        detail::ClientOptions{state_->endpoint, detail::label_of(options), options.broker_timeout});
    detail::connect(*state_, options, deadline);
    if (!state_->embedded) return;
    detail::await_workers(*state_, deadline);
    if (!options.hosts.empty()) {
      detail::bring_up(*state_, options.hosts, options.hosts_origin);
      if (options.workers == 0 && options.await_hosts) detail::await_nodes(*state_, deadline);
    }
    state_->embedded->started();
  } catch (const TransportError& error) {
    throw Error(ErrorCode::unusable, "unusable", error.what());
  }
}

Producer::~Producer() {
  if (state_->client) state_->client->stop();
}

RawFuture Producer::submit_raw(const FunctionName& function, Bytes payload,
                               const std::vector<Blob>& blobs) {
  if (!function.python.empty() || !function.ship.empty()) {
    return job(function).submit_raw(std::move(payload), blobs);
  }
  std::shared_ptr<detail::JobState> job;
  {
    const std::lock_guard lock(state_->mutex);
    auto& entry = state_->default_jobs[{function.command, function.name}];
    if (!entry || entry->table->failure()) {  // a silence ended it: the broker may be back
      entry = std::make_shared<detail::JobState>(state_->client, function, JobOptions());
    }
    job = entry;
  }
  return RawFuture(job->submit(std::move(payload), blobs));
}

Job Producer::job(const FunctionName& function, const JobOptions& options) {
  return Job(std::make_shared<detail::JobState>(state_->client, function, options));
}

Stream Producer::stream(const FunctionName& function, const JobOptions& options, Order order) {
  auto state = std::make_shared<detail::StreamState>(state_->client, options, order);
  state->open(detail::spec_of(*state_->client, function, options), state);
  return Stream(std::move(state));
}

Channel Producer::channel() {
  return Channel(std::make_shared<detail::ChannelState>(state_->client));
}

Blob Producer::scatter(std::span<const std::byte> content) {
  return state_->client->blobs().scatter(content);
}

Blob Producer::scatter(std::span<const std::byte> content, std::chrono::nanoseconds timeout) {
  return state_->client->blobs().scatter(content, detail::deadline_after(timeout));
}

Blob Producer::scatter_file(const std::string& path, std::uint64_t offset,
                            std::uint64_t size_bytes) {
  return state_->client->blobs().scatter_file(path, offset, size_bytes);
}

Blob Producer::scatter_copy(const std::string& path) {
  return state_->client->blobs().scatter_copy(path);
}

bool Producer::has_blobs() const { return state_->client->blobs().shares(); }

bool Producer::await_blob_room(std::uint64_t size_bytes, std::chrono::nanoseconds timeout) {
  return state_->client->blobs().await_room(size_bytes, detail::deadline_after(timeout));
}

PoolStatus Producer::status(std::chrono::milliseconds timeout) {
  const auto status = detail::ask_status(*state_->client, timeout);
  if (!status) {
    throw Error(ErrorCode::wait_timed_out, "wait_timed_out",
                "the broker did not send its status within the time given");
  }
  return {to_json(*status), status->total_slots,
          static_cast<std::uint32_t>(status->workers.size())};
}

bool Producer::wait_for_slots(std::uint32_t slots, std::chrono::milliseconds timeout) {
  return state_->client->wait_for_slots(slots, timeout);
}

std::uint32_t Producer::total_slots() const { return state_->client->total_slots(); }

std::vector<std::string> Producer::up(const std::string& hosts, const std::string& origin) {
  return detail::bring_up(*state_, hosts, origin);
}

std::vector<std::string> Producer::down(const std::vector<std::string>& names, bool end_broker) {
  return detail::command_nodes(*state_->client, message::NodesDown{names, end_broker});
}

std::vector<OutputLine> Producer::next_output(std::chrono::nanoseconds timeout) {
  const std::shared_ptr<detail::Client> client = state_->client;  // the wait may outlive this
  return client->next_output(timeout);
}

void Producer::use_store(const std::string& name) { state_->client->use_store(name); }

std::unique_ptr<PendingReply> Producer::ask(std::uint64_t claimant, StoreQuestion question) {
  return std::make_unique<FutureReply>(state_->client->ask_store(claimant, std::move(question)));
}

const std::string& Producer::endpoint() const { return state_->endpoint; }

}  // namespace muster
