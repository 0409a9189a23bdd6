// A worker's broker whose words a test says by hand, on a real socket. One thread.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "broker/door/authenticator.hpp"
#include "common/protocol/codec.hpp"
#include "tests/support/child.hpp"

namespace muster::testing {

// What listens at a local endpoint, or admits anybody who says "node1" and "secret".
class WorkerBroker {
 public:
  static constexpr SessionId kSession{1, 2};
  static constexpr JobId kJob{1};

  explicit WorkerBroker(const std::string& endpoint) {
    authenticator_.allow("node1", "secret", "");
    const bool is_local = endpoint.starts_with("ipc://");
    endpoint_ = router_.bind(endpoint, {is_local ? Security::local : Security::plain});
  }
  const std::string& endpoint() const { return endpoint_; }

  // The next message, if there is one. Its sender is who say() speaks to; its name is noted.
  std::optional<Message> next() {
    auto received = router_.receive();
    if (!received) return std::nullopt;
    auto decoded = decode(received->frames);
    auto& message = std::get<Message>(decoded);
    peer_ = received->peer;
    heard_ += std::string(name_of(message)) + " ";
    return std::move(message);
  }
  // Waits for a message of this kind.
  template <typename Kind>
  std::optional<Kind> hear() {
    std::optional<Kind> heard;
    wait_until([&] {
      while (auto message = next()) {
        if (!std::holds_alternative<Kind>(*message)) continue;
        heard = std::get<Kind>(std::move(*message));
        return true;
      }
      return false;
    });
    return heard;
  }
  void say(const Message& message) { router_.send(peer_, encode(message, Packing::never)); }
  void say_nonsense() { router_.send(peer_, {Bytes::copy("?")}); }  // it cannot be decoded
  void welcome(const std::string& proof = "", std::uint32_t heartbeat_misses = 1000) {
    message::Welcome welcome;
    welcome.incarnation = {5, 6};
    welcome.heartbeat_interval = std::chrono::milliseconds(100);
    welcome.heartbeat_misses = heartbeat_misses;
    welcome.proof = proof;
    welcome.pack = true;
    say(welcome);
  }
  void order(std::uint64_t sequence, const std::string& shell) {
    JobSpec spec;
    spec.function.kind = FunctionKind::command;
    say(message::WorkerJob{kSession, kJob, spec});
    const CommandTask command{{"/bin/sh", "-c", shell}, {}, {}, "/", 0};
    say(message::Tasks{
        kSession,
        kJob,
        {{TaskSequence{sequence}, Attempt{0}, {{encode_command_task(command), 0}}}}});
  }
  const std::string& everything_heard() const { return heard_; }

 private:
  TransportContext context_;
  Authenticator authenticator_{context_};
  Router router_{context_};
  std::string endpoint_;
  PeerId peer_{};
  std::string heard_;
};

}  // namespace muster::testing
