#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <muster/producer.hpp>
#include <mutex>
#include <utility>

#include "producer/channel.hpp"
#include "producer/embedded.hpp"
#include "producer/future.hpp"
#include "producer/job_spec.hpp"
#include "producer/outcome_error.hpp"
#include "producer/status_json.hpp"
#include "producer/stream.hpp"

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

std::string endpoint_of(const Options& options) {
  if (!options.endpoint.empty()) return options.endpoint;
  const char* variable = std::getenv("MUSTER_BROKER");
  return variable == nullptr ? "" : variable;
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

// Waits for WELCOME in steps, so that an embedded pool that does not start is noticed at once.
void connect(ProducerState& state, const Options& options, Clock::time_point deadline) {
  constexpr std::chrono::milliseconds kStep{20};
  constexpr std::chrono::milliseconds kStarting{500};  // a broker that was started just before us
  const auto no_socket = std::min(deadline, Clock::now() + kStarting);
  while (!state.client->wait_connected(kStep)) {
    if (state.embedded) state.embedded->check_alive();
    if (!state.embedded && Clock::now() >= no_socket && !socket_exists(state.endpoint)) {
      throw Error(ErrorCode::disconnected, "disconnected",
                  fmt::format("no broker listens at {0}: there is no such socket; start one with "
                              "`muster-broker --listen {0}`, correct the path, or unset "
                              "MUSTER_BROKER to use a pool on this machine",
                              state.endpoint));
    }
    if (Clock::now() < deadline) continue;
    throw Error(ErrorCode::disconnected, "disconnected",
                fmt::format("no broker answered at {0} within {1:.1f} s; is muster-broker running? "
                            "start it with `muster-broker --listen {0}`, or unset MUSTER_BROKER to "
                            "use a pool on this machine",
                            state.endpoint,
                            std::chrono::duration<double>(options.connect_timeout).count()));
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
    state_->embedded->started();
  } catch (const TransportError& error) {
    throw Error(ErrorCode::unusable, "unusable", error.what());
  }
}

Producer::~Producer() {
  if (state_->client) state_->client->stop();
}

RawFuture Producer::submit_raw(const FunctionName& function, Bytes payload) {
  if (!function.python.empty()) return job(function).submit_raw(std::move(payload));
  std::shared_ptr<detail::JobState> job;
  {
    const std::lock_guard lock(state_->mutex);
    auto& entry = state_->default_jobs[{function.command, function.name}];
    if (!entry || entry->table->failure()) {  // a silence ended it: the broker may be back
      entry = std::make_shared<detail::JobState>(
          state_->client, detail::spec_of(*state_->client, FunctionName(function), {}));
    }
    job = entry;
  }
  return RawFuture(job->submit(std::move(payload)));
}

Job Producer::job(FunctionName function, const JobOptions& options) {
  return Job(std::make_shared<detail::JobState>(
      state_->client, detail::spec_of(*state_->client, std::move(function), options)));
}

Stream Producer::stream(FunctionName function, const JobOptions& options, Order order) {
  auto state = std::make_shared<detail::StreamState>(state_->client, options, order);
  state->open(detail::spec_of(*state_->client, std::move(function), options), state);
  return Stream(std::move(state));
}

Channel Producer::channel() {
  return Channel(std::make_shared<detail::ChannelState>(state_->client));
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

std::vector<OutputLine> Producer::next_output(std::chrono::nanoseconds timeout) {
  const std::shared_ptr<detail::Client> client = state_->client;  // the wait may outlive this
  return client->next_output(timeout);
}

const std::string& Producer::endpoint() const { return state_->endpoint; }

}  // namespace muster
