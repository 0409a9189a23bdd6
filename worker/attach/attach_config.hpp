// What `muster-worker attach` is told in the first line of its standard input: the broker's end of
// the tunnel, and the worker that is wanted. A plain value; it holds secrets: never log it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/net/transport.hpp"

namespace muster {

struct AttachConfig {
  std::string pool;       // names the run folder
  bool end_only = false;  // ends a worker of the pool if there is one, starts none
  std::chrono::seconds end_seconds{0};

  std::string endpoint;
  Login login;
  std::string proof;  // what WELCOME must carry
  std::chrono::seconds orphan_grace{600};

  std::string node;
  std::string version;  // of the broker's software
  std::uint32_t slots = 0;
  std::string executor;
  std::vector<std::string> labels;
  std::vector<std::pair<std::string, std::string>> environment;
  std::string directory;           // empty: the home folder
  std::string python;              // interpreter; "auto": as workers find it; empty: none
  std::string python_environment;  // digest of a prepared environment, instead of `python`
  std::vector<std::string> python_path;
  std::vector<std::string> includes;  // digests of uploaded modules
  std::vector<std::string> plugins;   // DIGEST/NAME of uploaded ones
  int nice = 0;
  std::uint32_t max_cores = 0;
  std::uint64_t max_memory = 0;
  double pause_load = 0;

  // Equal texts: the same worker will do. Has no secrets.
  std::string settings;
};

// The same line with the path of the program that is to run it: another one is another worker.
std::string with_program(std::string_view line, const std::string& program);

// Throws std::invalid_argument, which names the key and holds no value.
AttachConfig parse_attach_config(std::string_view line);

// Where everything of ours on a node lives: $XDG_CACHE_HOME/muster or ~/.cache/muster. Throws
// std::runtime_error when there is no home folder.
std::string cache_folder();

}  // namespace muster
