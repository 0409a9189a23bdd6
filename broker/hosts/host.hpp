// One entry of a hosts file (docs/hosts.md): a machine that the broker reaches by ssh, and how its
// worker is to run. A plain value; hosts_file.hpp makes and checks it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace muster {

inline constexpr const char* kNoPython = "none";

enum class Via { libssh, openssh };

// A shared library of native functions on this machine, as it was when the host was read.
struct Plugin {
  std::string path;
  std::string digest;  // the first 32 digits of its SHA-256

  bool operator==(const Plugin&) const = default;
};

struct Host {
  // --- The connection ---
  std::string name;              // unique; in reports, and the worker's --node
  std::string address;           // host name or alias of ~/.ssh/config
  std::string user = {};         // empty: what ~/.ssh/config or the login name says
  std::uint16_t port = 0;        // of its sshd; 0: what ~/.ssh/config says, else 22
  std::string identity = {};     // private key file; empty: agent, then what ~/.ssh/config says
  std::string jump = {};         // [user@]host[:port], comma-separated; empty: ~/.ssh/config's
  std::string known_hosts = {};  // file; empty: ~/.ssh/known_hosts and the system's
  std::string ssh_config = {};   // file; empty: ~/.ssh/config and the system's
  Via via = Via::libssh;
  std::uint16_t reverse_port = 0;  // on the node's loopback; 0: the node chooses
  std::chrono::seconds connect_timeout{20};

  // --- The worker ---
  bool standing = false;    // a service on the node connects to reverse_port; none is started
  std::uint32_t slots = 0;  // 0: the node's cores
  std::string executor = "process";  // or "thread"
  std::vector<std::string> labels = {};
  std::vector<std::pair<std::string, std::string>> environment = {};
  std::string directory = {};  // working directory of tasks; empty: the home folder
  std::string worker = {};     // path of an installed muster-worker; empty: the bundle's
  bool curve = false;          // also encrypt inside the tunnel
  // How long the worker waits for its broker to come back before it ends.
  std::chrono::seconds orphan_grace{600};
  std::vector<Plugin> plugins = {};  // that the worker loads

  // --- Python on the node ---
  // Interpreter, or a version like "3.11", or kNoPython; empty: the one of the bundle's version, if
  // the node has it.
  std::string python = {};
  std::vector<std::string> pip = {};  // requirements of a virtual environment, with pins
  std::string wheels = {};            // folder on this machine that is used instead of an index
  std::vector<std::string> includes = {};  // files and folders on this machine that tasks import

  // --- Guest manners ---
  int nice = 0;
  std::uint32_t max_cores = 0;         // 0: all
  std::uint64_t max_memory_bytes = 0;  // of all tasks together; 0: the node's memory
  double pause_load = 0;               // pause while others keep this many cores busy; 0: never

  bool operator==(const Host&) const = default;
};

}  // namespace muster
