#include "broker/nodes/nodes_control.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "common/printable.hpp"

namespace muster {
namespace {

constexpr Duration kLook = std::chrono::milliseconds(200);  // how old a row of STATUS may be
// For the workers to end; the process that started this broker waits a little longer before it
// kills.
constexpr std::chrono::milliseconds kFinish{4'500};
// `muster down` waits for running tasks; a node that does not answer must not keep the broker.
constexpr Duration kEndAtMost = std::chrono::seconds(30);

std::string line_of(const std::vector<std::string>& names) {
  return printable_line(fmt::format("{}", fmt::join(names, ", ")));
}

NodePoolOptions with_name(NodePoolOptions options, const std::string& endpoint) {
  if (options.pool_name.empty()) options.pool_name = pool_name(endpoint);
  return options;
}

}  // namespace

std::string pool_name(const std::string& endpoint) {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host = {"localhost"};
  const std::string text = fmt::format("{}\n{}\n{}", host.data(), geteuid(), endpoint);
  const XXH128_hash_t digest = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", digest.high64, digest.low64);
}

NodesControl::NodesControl(NodePoolOptions options, const std::string& endpoint,
                           Authenticator& authenticator)
    : has_tunnels_(!options.tunnel_socket.empty()),
      reader_(options.plugins),
      pool_(with_name(std::move(options), endpoint), authenticator) {}

NodesControl::~NodesControl() = default;

void NodesControl::up_file(const std::string& path) {
  const std::string whole = std::filesystem::absolute(path).lexically_normal().string();
  std::ifstream file(whole, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    throw std::runtime_error(
        fmt::format("cannot read the hosts file {}: {}", path, std::strerror(errno)));
  }
  check_tunnels();
  pool_.up(reader_.read(text, path, std::filesystem::path(whole).parent_path().string()));
  has_nodes_ = true;
}

void NodesControl::remember(const std::string& path) {
  wanted_.emplace(path);
  for (const WantedNodes::Entry& entry : wanted_->entries()) {
    try {
      check_tunnels();
      std::vector<Host> hosts = reader_.read(entry.hosts, entry.origin);
      std::erase_if(hosts, [&](const Host& host) {
        return std::find(entry.names.begin(), entry.names.end(), host.name) == entry.names.end();
      });
      spdlog::info("bringing up {} again: {}", printable_line(entry.origin), line_of(entry.names));
      pool_.up(hosts);
      has_nodes_ = true;
    } catch (const std::exception& error) {
      spdlog::error("{} stay down: {}", line_of(entry.names), printable_line(error.what()));
    }
  }
}

void NodesControl::check_tunnels() const {
  if (has_tunnels_) return;
  throw std::runtime_error(
      "the path of the broker's socket is too long for tunnels to end beside it: give the broker a "
      "shorter --listen");
}

message::NodesAnswer NodesControl::up(const message::NodesUp& request,
                                      HostsReader::Result&& wanted) {
  message::NodesAnswer answer;
  try {
    check_tunnels();
    if (!wanted.error.empty()) throw std::invalid_argument(wanted.error);
    for (const Host& host : wanted.hosts) answer.names.push_back(host.name);
    spdlog::info("bringing up {}: {}", printable_line(request.origin), line_of(answer.names));
    pool_.up(wanted.hosts);
    has_nodes_ = true;
    end_asked_ = false;
    if (wanted_) wanted_->up({request.origin, request.hosts, answer.names});
  } catch (const std::exception& error) {
    answer.names.clear();
    answer.error = std::string(error.what()).substr(0, limits::kMaxTextBytes);
  }
  return answer;
}

message::NodesAnswer NodesControl::down(const message::NodesDown& request, Time now) {
  message::NodesAnswer answer;
  const std::vector<message::NodeStatus> rows = pool_.rows();
  if (!pool_.down(request.names)) {
    std::vector<std::string_view> known;
    for (const auto& row : rows) known.push_back(row.name);
    answer.error = fmt::format("there is no node of a name among: {}; the nodes are: {}",
                               fmt::join(request.names, ", "), fmt::join(known, ", "));
    answer.error.resize(std::min(answer.error.size(), limits::kMaxTextBytes));
    return answer;
  }
  answer.names = request.names;
  if (wanted_) wanted_->down(request.names);
  if (request.names.empty()) {
    for (const auto& row : rows) answer.names.push_back(row.name);
  }
  spdlog::info("ending {}{}", request.names.empty() ? "all nodes" : "nodes ",
               line_of(request.names));
  if (request.end_broker) {
    end_asked_ = true;
    end_from_ = now + kLook;  // the answer leaves before the broker
    end_by_ = now + kEndAtMost;
  }
  return answer;
}

void NodesControl::step(Scheduler& scheduler, Time now) {
  for (NodeRequest& request : scheduler.take_node_requests()) {
    requests_.push_back(std::move(request));
  }
  while (!requests_.empty() && answer_first(scheduler, now)) {
  }
  if (has_nodes_ && now >= next_look_) follow(scheduler, now);
}

// False: its hosts are being read; the others wait, so that all are answered in order.
bool NodesControl::answer_first(Scheduler& scheduler, Time now) {
  const NodeRequest& request = requests_.front();
  message::NodesAnswer answer;
  if (const auto* wanted = std::get_if<message::NodesUp>(&request.request)) {
    if (!reader_.is_reading()) {
      reader_.begin(*wanted);
      return false;
    }
    std::optional<HostsReader::Result> result = reader_.take();
    if (!result) return false;
    answer = up(*wanted, *std::move(result));
  } else {
    answer = down(std::get<message::NodesDown>(request.request), now);
  }
  scheduler.answer(request.peer, std::move(answer));
  requests_.pop_front();
  follow(scheduler, now);
  return true;
}

void NodesControl::follow(Scheduler& scheduler, Time now) {
  std::vector<message::NodeStatus> rows = pool_.rows();
  has_nodes_ = !rows.empty() || !pool_.empty() || end_asked_;
  scheduler.set_nodes(std::move(rows));
  next_look_ = now + kLook;
  wants_end_ = end_asked_ && now >= end_from_ && (pool_.empty() || now >= end_by_);
}

Time NodesControl::next_deadline() const { return has_nodes_ ? next_look_ : kNever; }

void NodesControl::finish() {
  if (wanted_) wanted_->clear();
  if (pool_.empty()) return;
  spdlog::info("ending the workers on the nodes");
  pool_.finish(kFinish);
}

}  // namespace muster
