#include "broker/nodes/node_pool.hpp"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "broker/nodes/descriptor_budget.hpp"
#include "broker/nodes/node.hpp"

namespace muster {

struct NodePool::State {
  NodePoolOptions options;
  Authenticator& authenticator;
  std::mutex mutex;  // for `ended` alone
  std::condition_variable ended;
  std::map<std::string, std::unique_ptr<Node>> nodes;  // by name

  void reap() {
    std::erase_if(nodes, [](const auto& entry) { return entry.second->over(); });
  }

  void up(const Host& host) {
    const auto found = nodes.find(host.name);
    if (found != nodes.end()) {
      const bool is_up = !found->second->ending() && found->second->host() == host;
      if (is_up || found->second->replace(host, options.drain)) return;
      nodes.erase(found);
    }
    const auto on_end = [this] {
      const std::lock_guard lock(mutex);
      ended.notify_all();
    };
    nodes.emplace(host.name, std::make_unique<Node>(host, options, authenticator, on_end));
  }

  void check_descriptors(const std::vector<Host>& hosts) const {
    std::vector<Host> present;
    std::vector<Host> more;
    for (const auto& [name, node] : nodes) present.push_back(node->host());
    for (const Host& host : hosts) {
      if (!nodes.contains(host.name)) more.push_back(host);
    }
    if (more.empty()) return;
    const std::string complaint = descriptor_complaint(present, more, descriptors_in_use());
    if (!complaint.empty()) throw std::invalid_argument(complaint);
  }
};

NodePool::NodePool(NodePoolOptions options, Authenticator& authenticator)
    : state_(new State{std::move(options), authenticator, {}, {}, {}}) {}

NodePool::~NodePool() {
  for (const auto& [name, node] : state_->nodes) node->cut();  // all at once, then each is joined
}

void NodePool::up(const std::vector<Host>& hosts) {
  state_->reap();
  state_->check_descriptors(hosts);
  for (const Host& host : hosts) state_->up(host);
}

bool NodePool::down(const std::vector<std::string>& names) {
  state_->reap();
  for (const std::string& name : names) {
    if (!state_->nodes.contains(name)) return false;
  }
  for (const auto& [name, node] : state_->nodes) {
    if (names.empty() || std::find(names.begin(), names.end(), name) != names.end()) {
      node->down(state_->options.drain);
    }
  }
  return true;
}

void NodePool::finish(std::chrono::milliseconds patience) {
  const auto drain = std::min(state_->options.drain,
                              std::chrono::duration_cast<std::chrono::seconds>(patience / 2));
  for (const auto& [name, node] : state_->nodes) node->down(drain);
  {
    std::unique_lock lock(state_->mutex);
    state_->ended.wait_for(lock, patience, [this] {
      return std::all_of(state_->nodes.begin(), state_->nodes.end(),
                         [](const auto& entry) { return entry.second->over(); });
    });
  }
  for (const auto& [name, node] : state_->nodes) node->cut();
  state_->nodes.clear();
}

bool NodePool::empty() const {
  state_->reap();
  return state_->nodes.empty();
}

std::vector<message::NodeStatus> NodePool::rows() const {
  state_->reap();
  std::vector<message::NodeStatus> rows;
  rows.reserve(state_->nodes.size());
  for (const auto& [name, node] : state_->nodes) rows.push_back(node->row());
  return rows;
}

}  // namespace muster
