// What `muster-worker attach` is told on a node, and what its end means. Plain functions; any
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "broker/hosts/host.hpp"
#include "broker/nodes/bundle.hpp"
#include "broker/nodes/environment.hpp"
#include "broker/nodes/node_pool.hpp"

namespace muster {

// For the node's shell. `bundle`: what was uploaded; of no use to a host that names its worker.
std::string attach_command(const Host& host, const Bundle& bundle);

// The secrets of one attach.
struct AttachSecrets {
  std::string password;
  std::string proof;
  std::string public_key;  // Z85; these two of a host with `curve` alone
  std::string secret_key;
};
AttachSecrets make_attach_secrets(const Host& host);

// One line for its standard input: the worker that is wanted, and how it finds the broker at `port`
// of its own machine.
std::string attach_input(const Host& host, const Image& image, const NodePoolOptions& options,
                         std::uint16_t port, const AttachSecrets& secrets);
// The same for one that only ends the worker, which may go on with what it runs for `drain`.
std::string end_input(const Host& host, const NodePoolOptions& options, std::chrono::seconds drain);

// How it ended.
struct AttachEnd {
  int status = 0;
  std::string last_words;  // on its standard error
  std::string lack;        // why there is no Python although there might be
};
// Throws the NodeError that says so.
[[noreturn]] void explain_end(const AttachEnd& end);

// What another machine says, fit for our log.
std::string for_log(std::string_view line);

}  // namespace muster
