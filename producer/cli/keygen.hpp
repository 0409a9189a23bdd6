// `muster keygen`: makes the key file of a broker or a worker, or a secret that they share.
#pragma once

#include <CLI/App.hpp>
#include <string>

namespace muster {

struct KeygenOptions {
  std::string name;    // empty: this machine's name
  std::string output;  // empty: NAME.key in the current folder
  std::string secret;  // not empty: write a shared secret to this file instead
  bool force = false;
};

// Adds the command with its options, which go to `options`.
CLI::App* add_keygen(CLI::App& app, KeygenOptions& options);

// Writes the two files and says on standard output what to do with them. Returns the exit code;
// throws TransportError (a file exists or cannot be written) or std::invalid_argument (the name).
int make_keys(KeygenOptions options);

}  // namespace muster
