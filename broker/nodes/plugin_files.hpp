// Plug-ins of this machine on their way to nodes: each is kept there under its digest, once for all
// pools (docs/hosts.md: plugins).
#pragma once

#include <string>
#include <vector>

#include "broker/hosts/host.hpp"
#include "broker/nodes/bundle.hpp"
#include "broker/ssh/remote.hpp"

namespace muster {

// DIGEST/NAME, where it is in the cache's folder `plugins`: what `muster-worker attach` is told.
std::string place_of(const Plugin& plugin);

// Uploads those that are not there. Throws NodeError.
void place_plugins(Remote& remote, const std::vector<Plugin>& plugins, const NodeFacts& facts,
                   const Progress& progress);

}  // namespace muster
