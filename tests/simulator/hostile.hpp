// Somebody beside the honest peers who says whatever comes to mind: legal-looking messages of every
// type in any order, mangled ones, greetings of producers and of workers. The honest ones must not
// notice. Sessions and worker ids of others are secrets, which it does not know.
// Owner: one World; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "broker/scheduling/scheduler.hpp"
#include "common/protocol/codec.hpp"

namespace muster::simulator {

class HostilePeer {
 public:
  explicit HostilePeer(std::uint64_t seed) : generator_(seed) {}

  struct Said {
    std::uint64_t peer = 0;  // the connection on which it is said
    std::variant<Message, DecodeError> what;
    std::optional<RemoteUser> user;  // it came over the network
    std::string kind;                // for the coverage
    bool connects = false;           // on a new connection: call connect(), and name that one
  };
  // What it says next, as the broker's decoder sees it.
  Said speak(const Scheduler& broker);
  // It has a new connection of this name, instead of one that it had. Returns the name.
  std::uint64_t connect(std::uint64_t peer);
  // Whether this connection is one of its.
  bool is(std::uint64_t peer) const;

 private:
  std::uint64_t random(std::uint64_t below) { return generator_() % below; }
  std::variant<Message, DecodeError> mangle(const Message& message);

  std::mt19937_64 generator_;
  std::vector<std::uint64_t> peers_;
};

}  // namespace muster::simulator
