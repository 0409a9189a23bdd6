// The hosts that the command line names: hosts files and short forms. Reads the files; the broker
// understands them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace muster {

// What one NODES_UP says.
struct HostsText {
  std::string text;    // TOML
  std::string origin;  // absolute path of the file, or what stands for it in messages
};

// What holds for hosts of the short form that do not say otherwise.
struct HostDefaults {
  std::uint32_t slots = 0;  // 0: not said
  std::string python = {};  // empty: not said
};

// One text for every file and one for all short forms, in the order of their first mention. A word
// is a file if it ends in ".toml" or has a '/'. Throws std::runtime_error when a file
// cannot be read, or there are defaults and no short form to use them.
std::vector<HostsText> hosts_of(const std::vector<std::string>& words,
                                const HostDefaults& defaults = {});

}  // namespace muster
