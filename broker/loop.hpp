// The broker's loop: the only place in the process that blocks and that reads the clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "broker/scheduler.hpp"
#include "common/service_notify.hpp"
#include "common/transport.hpp"

namespace muster {

struct BrokerOptions {
  std::vector<std::string> listen;  // endpoints
  bool private_folder = false;      // remove the folder of the first endpoint at the end
  int lifeline = -1;                // descriptor; its end of file ends the broker
  SchedulerOptions scheduler;
  ServiceManager service;  // who wants to know that the broker is ready, and lives
};

// Binds every endpoint and serves until SIGTERM, SIGINT or the lifeline's end. Blocks for the life
// of the process. Throws TransportError when an endpoint cannot be used.
void run_broker(const BrokerOptions& options);

}  // namespace muster
