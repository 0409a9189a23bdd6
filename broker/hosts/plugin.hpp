// The plug-ins that a host names: files of this machine.
#pragma once

#include <string>

#include "broker/hosts/host.hpp"

namespace muster {

// Throws std::invalid_argument unless `path` is a file that can be read.
void check_plugin(const std::string& path);

// With its digest. Reads the file; throws as above.
Plugin describe_plugin(const std::string& path);

}  // namespace muster
