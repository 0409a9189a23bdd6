// Bytes as a life of the broker: peers that say anything in any order, and time that passes. The
// scheduler must neither abort nor contradict itself, and what it sends must be readable.
#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"
#include "common/protocol/codec.hpp"
#include "tests/fuzz/input.hpp"
#include "tests/fuzz/speaker.hpp"
#include "tests/support/blob_set.hpp"

namespace muster {
namespace {

using fuzz::Input;
using fuzz::Speaker;

constexpr std::uint32_t kPeers = 6;
constexpr std::size_t kMaxSteps = 400;

SchedulerOptions options(BlobFiles* files) {
  SchedulerOptions options;
  options.blobs = files;
  options.credit_blob_bytes = std::uint64_t{1} << 40;
  options.incarnation = {1, 2};
  options.software_version = "0.1";
  options.credit_tasks = 64;
  options.credit_bytes = 4 * fuzz::kBigBytes;
  return options;
}

class Broker {
 public:
  void step(Input& input) {
    const PeerId peer{input.below(kPeers)};
    const std::uint8_t kind = input.byte();
    if (kind < 200) {
      receive(peer, Speaker(input).to_broker());
    } else if (kind < 240) {
      // Milliseconds to minutes: heartbeats, grace periods and the broker's own standstill.
      now_ += std::chrono::milliseconds(1U << input.below(18));
      if (now_ >= scheduler_.next_deadline()) scheduler_.tick(now_);
    } else if (kind < 245) {
      files_.add(Speaker(input).blob());  // as if a worker's file had been taken
    } else if (kind < 250) {
      scheduler_.disconnected(peer, now_);
    } else {
      scheduler_.malformed(peer, message::RefuseCode::malformed, "garbage", now_);
    }
    scheduler_.check_invariants();
    if (!input.flag()) return;
    for (const Outgoing& outgoing : scheduler_.take_outgoing(now_)) {
      CHECK(std::holds_alternative<Message>(decode(encode(outgoing.message, Packing::never))));
    }
    scheduler_.check_invariants();
  }

 private:
  // Only what the codec lets through reaches the scheduler.
  void receive(PeerId peer, const Message& message) {
    auto decoded = decode(encode(message, Packing::never));
    if (const auto* error = std::get_if<DecodeError>(&decoded)) {
      scheduler_.malformed(peer, error->code, error->reason, now_);
    } else {
      scheduler_.receive(peer, std::get<Message>(std::move(decoded)), now_);
    }
  }

  Time now_ = std::chrono::hours(1);
  testing::BlobSet files_;
  Scheduler scheduler_{options(&files_), now_};
};

}  // namespace
}  // namespace muster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  muster::fuzz::Input input(data, size);
  muster::Broker broker;
  for (std::size_t i = 0; i < muster::kMaxSteps && !input.empty(); ++i) broker.step(input);
  return 0;
}
