// What tasks find on a node besides Muster: the interpreter and the packages that a host asks for,
// and modules of this machine (docs/hosts.md: python, pip, wheels, includes). All of it is kept on
// the node under the digest of what it was made from.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "broker/hosts/host.hpp"
#include "broker/nodes/bundle.hpp"
#include "broker/ssh/remote.hpp"

namespace muster {

struct Image {
  std::string environment;       // digest; empty: no Python
  bool may_lack_python = false;  // nobody asked for it: a node without one goes without
  std::string include;           // digest; empty: no includes
  std::string wheels;            // digest; empty: the node's index
  std::vector<std::filesystem::path> wheel_files;
};

// Reads the wheels and includes. Throws NodeError (lasting, "python") when they cannot be read.
Image describe_image(const Host& host, const Bundle& bundle);

// Uploads the modules unless they are there. Throws NodeError.
void place_includes(Remote& remote, const Host& host, const Image& image, const NodeFacts& facts,
                    const Progress& progress);

// Makes the environment unless it is there; the bundle is. A node that may lack Python, and does,
// gets a mark of it instead, with the reason. Throws NodeError.
void prepare_environment(Remote& remote, const Host& host, const Bundle& bundle, const Image& image,
                         const NodeFacts& facts, const Progress& progress);

}  // namespace muster
