// STATUS: what the books say of the broker, for people. A reader of the books. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "broker/books/books.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"

namespace muster {

class StatusReport {
 public:
  explicit StatusReport(const Books& books) : books_(books) {}
  StatusReport(const StatusReport&) = delete;
  StatusReport& operator=(const StatusReport&) = delete;

  // It shows these from now on, each with the round trip of the worker on it.
  void set_nodes(std::vector<message::NodeStatus> rows) { nodes_ = std::move(rows); }
  void set_gauge(const std::string& name, std::uint64_t number) { gauges_[name] = number; }
  message::Status at(Time now) const;

 private:
  void add_workers(message::Status& status, Time now) const;
  void add_jobs(message::Status& status) const;
  void add_nodes(message::Status& status) const;

  const Books& books_;
  std::vector<message::NodeStatus> nodes_;
  std::map<std::string, std::uint64_t> gauges_;
};

// How people see a session: its id is its producer's secret.
std::string shown(const SessionRecord& session);

}  // namespace muster
