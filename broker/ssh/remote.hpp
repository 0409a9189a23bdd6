// The seam between a node's life (node.hpp) and what carries its ssh connection: libssh_remote.hpp
// in this process, openssh_remote.hpp for logins that need the system's client.
//
// Owner: the node. Threads: one, the node's; only finish() and cut() may come from any thread.
// Every function blocks until it is done, cut() was called, or its time is over.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "broker/hosts/host.hpp"

namespace muster {

// Something is wrong with a node. `what()` says what happened, where, and how to fix it; it never
// holds a secret.
class NodeError : public std::runtime_error {
 public:
  enum class Kind {
    passing,  // the network, a reboot: worth another try
    lasting,  // only a person can mend it: host key, login, forwarding denied, disk, version
  };
  NodeError(Kind kind, std::string step, const std::string& text)
      : std::runtime_error(text), kind_(kind), step_(std::move(step)) {}
  Kind kind() const { return kind_; }
  // "resolve", "connect", "host key", "login", "forward", "probe", "upload", "python", "start" or
  // "serve".
  const std::string& step() const { return step_; }

 private:
  Kind kind_;
  std::string step_;
};

// What a tunnel has carried; written by the node's thread, read by any.
struct TunnelCounters {
  std::atomic<std::uint64_t> bytes_in{0};  // from the node
  std::atomic<std::uint64_t> bytes_out{0};
};

struct CommandOutput {
  int status = 0;  // exit status; 128 + N: signal N; 127: not found (sh's rules)
  std::string output;
  std::string error_output;
};

// What the held command (Remote::serve) prints, line by line, as it comes.
using LineSink = std::function<void(std::string_view line, bool is_error)>;

class Remote {
 public:
  virtual ~Remote() = default;

  // Resolves, connects, checks the host key, logs in; `step` is called as each begins. Throws
  // NodeError.
  virtual void open(const std::function<void(const std::string& step)>& step) = 0;

  // Asks the node's sshd to listen on its loopback ("localhost"), port `port` (0: any), and joins
  // every connection to it with a new one to `socket_path`, a Unix socket here, once serve() runs.
  // Returns the port. Throws NodeError (step "forward").
  virtual std::uint16_t forward(std::uint16_t port, const std::string& socket_path) = 0;

  // Runs `command` with the node user's shell, `input` as its standard input. At most 1 MiB of each
  // output is kept. Throws NodeError when the connection fails.
  virtual CommandOutput run(const std::string& command, std::string_view input,
                            std::chrono::seconds patience) = 0;

  // Copies a file of this machine to `path` on the node (relative: to the home folder), mode 0600;
  // the folder exists. `progress` gets the bytes that are over. Throws NodeError (step "upload").
  virtual void upload(const std::filesystem::path& file, const std::string& path,
                      const std::function<void(std::uint64_t bytes)>& progress) = 0;

  // Holds `command` with `input` as the beginning of its standard input, which stays open, and
  // carries the tunnel's bytes until the command ends (returns its exit status) or the connection
  // breaks or is cut (throws NodeError "serve"). A forward without a command (`command` empty) is
  // carried until the connection ends.
  virtual int serve(const std::string& command, std::string_view input, const LineSink& sink) = 0;

  // Any thread: writes `last_words` to the held command's standard input and closes it; serve()
  // then returns when the command ends.
  virtual void finish(std::string_view last_words) = 0;

  // Any thread: ends whatever blocks, now; it throws NodeError "serve".
  virtual void cut() = 0;
};

// The connection for `host`; opens nothing yet. `counters` outlives it.
std::unique_ptr<Remote> make_remote(const Host& host, TunnelCounters& counters);

}  // namespace muster
