// `muster up` and `muster down`: have a broker that stays bring up nodes, and end them.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "producer/cli/nodes/hosts_words.hpp"

namespace muster {

struct UpOptions {
  std::vector<std::string> words;  // hosts files and short forms
  std::string broker;              // empty: see place_of_broker()
  HostDefaults defaults;
  // A node that cannot be reached counts as failed after so long; the broker goes on trying.
  std::chrono::milliseconds patience{30'000};
};

// Starts the broker if none runs, has it bring up the hosts and shows how that goes until each is
// up or has failed. 0: all are up, 1: some are not (each with its reason on standard error), 130 or
// 143: stopped by a signal; the broker goes on. Throws muster::Error and std::runtime_error.
int bring_up(const UpOptions& options);

struct DownOptions {
  std::vector<std::string> names;  // of nodes; empty: all, and the broker
  std::string broker;
  bool wait = true;
};

// Ends the workers on these nodes and waits until they are gone. 0: they are, 1: some are not
// within a minute. Throws as above.
int take_down(const DownOptions& options);

}  // namespace muster
