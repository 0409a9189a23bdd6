#include "tests/simulator/hostile.hpp"

#include <algorithm>
#include <utility>

#include "tests/fuzz/speaker.hpp"

namespace muster::simulator {
namespace {

constexpr std::size_t kConnections = 3;
constexpr std::size_t kTapeBytes = 400;

}  // namespace

HostilePeer::Said HostilePeer::speak(const Scheduler& broker) {
  std::vector<std::uint8_t> tape(kTapeBytes);
  for (std::uint8_t& byte : tape) byte = static_cast<std::uint8_t>(random(256));
  fuzz::Input input(tape.data(), tape.size());
  const Message message = fuzz::Speaker(input).to_broker();
  Said said{0, message, std::nullopt, "says", false};
  said.connects = peers_.size() < kConnections || random(20) == 0;
  if (!said.connects) said.peer = peers_[random(peers_.size())];
  if (random(40) == 0) {
    said.what = mangle(message);
    said.kind = "mangles";
    return said;
  }
  auto decoded = decode(encode(message, Packing::never));
  if (auto* error = std::get_if<DecodeError>(&decoded)) said.what = std::move(*error);
  const bool greets = std::holds_alternative<message::HelloProducer>(message) ||
                      std::holds_alternative<message::HelloWorker>(message);
  if (greets && !broker.knows(PeerId{said.peer}) && random(4) == 0) {
    said.user = RemoteUser{"mallory", "", random(4) != 0};
    said.kind = "greets_from_afar";
  }
  return said;
}

// A few bits are others, or the end is missing, or a frame is there too much.
std::variant<Message, DecodeError> HostilePeer::mangle(const Message& message) {
  Frames frames = encode(message, Packing::never);
  std::string first(frames.front().text());
  if (random(3) == 0) {
    first.resize(random(first.size() + 1));
  } else {
    for (std::uint64_t i = random(3); i <= 3; ++i) {
      first[random(first.size())] = static_cast<char>(random(256));
    }
  }
  frames.front() = Bytes::copy(first);
  if (random(4) == 0) frames.push_back(Bytes::copy("more"));
  auto decoded = decode(frames);
  if (auto* error = std::get_if<DecodeError>(&decoded)) return std::move(*error);
  return std::get<Message>(std::move(decoded));
}

std::uint64_t HostilePeer::connect(std::uint64_t peer) {
  if (peers_.size() < kConnections) {
    peers_.push_back(peer);
  } else {
    peers_[random(peers_.size())] = peer;
  }
  return peer;
}

bool HostilePeer::is(std::uint64_t peer) const {
  return std::find(peers_.begin(), peers_.end(), peer) != peers_.end();
}

}  // namespace muster::simulator
