// Reads hosts files (TOML, docs/hosts.md) and the short form "[user@]host[:port][*slots]".
// Reads no file but plug-ins; paths in the text are taken relative to `folder`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "broker/hosts/host.hpp"

namespace muster {

// The hosts that `text` names, in order, at least one. Throws std::invalid_argument with
// "ORIGIN:LINE:COLUMN: what is wrong with which key, and what is right".
std::vector<Host> parse_hosts(std::string_view text, const std::string& origin,
                              const std::string& folder);

// A host of the short form. Throws std::invalid_argument.
Host parse_short_host(std::string_view text);

}  // namespace muster
