#include "producer/cli/nodes/up.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <muster/producer.hpp>
#include <set>
#include <stdexcept>

#include "producer/cli/nodes/background_broker.hpp"
#include "producer/cli/nodes/node_display.hpp"
#include "producer/cli/nodes/node_rows.hpp"
#include "producer/cli/terminal/stop_signals.hpp"
#include "producer/client/discovery.hpp"

namespace muster {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLook{100};
constexpr std::chrono::seconds kDownPatience{60};
constexpr std::chrono::seconds kLookAgain{1};
constexpr std::chrono::seconds kBrokerPatience{30};  // a person waits for the answer

Options attach(const std::string& endpoint, const char* label) {
  Options options;
  options.endpoint = endpoint;
  options.label = label;
  options.broker_timeout = kBrokerPatience;
  return options;
}

// Waits for the next look; false: a signal asks to stop.
bool pause(const StopSignals& signals) {
  pollfd wake{signals.wake_file(), POLLIN, 0};
  ::poll(&wake, 1, static_cast<int>(kLook.count()));
  return signals.received() == 0;
}

std::vector<NodeRow> rows_of(Producer& producer, const std::set<std::string>& names) {
  std::vector<NodeRow> rows = node_rows(producer.status().json);
  std::erase_if(rows, [&](const NodeRow& row) { return !names.contains(row.name); });
  return rows;
}

// Whether there is nothing more to wait for. A node that is being prepared makes progress; one that
// does not answer may never do so.
bool is_settled(const NodeRow& row, bool patience_is_over) {
  if (is_up(row) || row.state == "failed") return true;
  return patience_is_over && row.state != "preparing";
}

int report(const std::vector<NodeRow>& rows, const std::string& endpoint) {
  std::size_t up = 0;
  std::uint64_t slots = 0;
  for (const NodeRow& row : rows) {
    if (is_up(row)) {
      ++up;
      slots += row.slots;
    } else {
      fmt::print(stderr, "muster up: {}\n", complaint(row));
    }
  }
  if (up < rows.size()) {
    fmt::print(
        stderr,
        "muster up: the broker goes on trying; see `muster status`, or `muster doctor HOST`, "
        "and its log {}\n",
        log_of_broker(endpoint));
  }
  fmt::print("{} of {} nodes up, {} slots, broker {}\n", up, rows.size(), slots, endpoint);
  return up == rows.size() ? 0 : 1;
}

int watch(Producer& producer, const std::set<std::string>& names, const UpOptions& options) {
  const StopSignals signals;
  NodeDisplay display;
  const auto patience_ends = Clock::now() + options.patience;
  while (true) {
    const std::vector<NodeRow> rows = rows_of(producer, names);
    display.show(rows);
    const bool over = Clock::now() >= patience_ends;
    const bool settled = std::all_of(rows.begin(), rows.end(),
                                     [&](const NodeRow& row) { return is_settled(row, over); });
    if (rows.empty()) throw std::runtime_error("the nodes were taken down meanwhile");
    if (settled) return report(rows, producer.endpoint());
    if (pause(signals)) continue;
    fmt::print(stderr,
               "muster up: no longer waiting; the broker goes on. `muster status` shows how far "
               "the nodes are, `muster down` ends them\n");
    return 128 + signals.received();
  }
}

void tell_end(const std::vector<NodeRow>& rows) {
  for (const NodeRow& row : rows) {
    fmt::print(stderr, "muster down: still there: {}\n", complaint(row));
  }
}

int await_nodes_gone(Producer& producer, const std::set<std::string>& names) {
  const StopSignals signals;
  const auto limit = Clock::now() + kDownPatience;
  while (true) {
    const std::vector<NodeRow> rows = rows_of(producer, names);
    if (rows.empty()) return 0;
    if (Clock::now() > limit) {
      tell_end(rows);
      return 1;
    }
    if (!pause(signals)) return 128 + signals.received();
  }
}

int await_broker_gone(const std::string& endpoint) {
  const StopSignals signals;
  const auto limit = Clock::now() + kDownPatience;
  while (broker_runs(endpoint) || broker_is_kept(endpoint)) {
    if (Clock::now() > limit) {
      fmt::print(stderr, "muster down: the broker at {} is still ending; its log: {}\n", endpoint,
                 log_of_broker(endpoint));
      return 1;
    }
    if (!pause(signals)) return 128 + signals.received();
  }
  clean_up_after_broker(endpoint);
  return 0;
}

// A broker that was killed holds its lock until the kernel has cleared it away, and looks as if it
// ran: who gets no answer looks again. `started`: this call has started it.
std::unique_ptr<Producer> reach_broker(const std::string& endpoint, bool& started) {
  Options options = attach(endpoint, "muster up");
  const auto limit = Clock::now() + options.connect_timeout;
  options.connect_timeout = kLookAgain;
  while (true) {
    started |= start_broker(endpoint);
    try {
      return std::make_unique<Producer>(options);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::disconnected) throw;
      if (Clock::now() < limit) continue;
      throw std::runtime_error(fmt::format(
          "a broker holds {} and does not answer; its log: {}; end its process, and try again",
          endpoint, log_of_broker(endpoint)));
    }
  }
}

}  // namespace

int bring_up(const UpOptions& options) {
  const std::vector<HostsText> texts = hosts_of(options.words, options.defaults);
  const std::string endpoint = place_of_broker(options.broker);
  bool started = false;
  const std::unique_ptr<Producer> reached = reach_broker(endpoint, started);
  Producer& producer = *reached;
  std::set<std::string> names;
  try {
    for (const HostsText& hosts : texts) {
      for (std::string& name : producer.up(hosts.text, hosts.origin)) names.insert(std::move(name));
    }
  } catch (const Error&) {
    // A typo leaves no broker behind that nobody wanted yet.
    if (started && names.empty()) {
      producer.down({}, true);
      await_broker_gone(endpoint);
    }
    throw;
  }
  return watch(producer, names, options);
}

int take_down(const DownOptions& options) {
  const std::string endpoint = endpoint_or_default(options.broker);
  if (endpoint.empty() || !broker_runs(endpoint)) {
    clean_up_after_broker(endpoint.empty() ? place_of_broker("") : endpoint);
    fmt::print(stderr, "muster down: no broker runs{}\n",
               endpoint.empty() ? "" : " at " + endpoint);
    return 0;
  }
  Producer producer(attach(endpoint, "muster down"));
  const bool all = options.names.empty();
  const std::vector<std::string> names = producer.down(options.names, all);
  if (!options.wait) return 0;
  if (all) return await_broker_gone(endpoint);
  return await_nodes_gone(producer, {names.begin(), names.end()});
}

}  // namespace muster
