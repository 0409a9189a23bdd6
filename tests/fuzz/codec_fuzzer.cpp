// Bytes as the frames of one message: two bytes of length (big-endian), that many bytes, and so on.
// Decoding never throws; what it accepts has one canonical form, which decodes to itself again.
#include "common/check.hpp"
#include "common/protocol/codec.hpp"
#include "tests/fuzz/input.hpp"

namespace muster {
namespace {

// Small enough for a fuzzer to unpack at will.
constexpr std::uint32_t kUnpackAtMost = 1U << 20;

void check_again(const Message& message, Packing packing) {
  const Frames frames = encode(message, packing);
  auto decoded = decode(frames);
  CHECK(std::holds_alternative<Message>(decoded));
  const Message& again = std::get<Message>(decoded);
  CHECK(again.index() == message.index());
  CHECK(encode(again, packing) == frames);
}

void read_bodies(const Message& message) {
  const auto* submitted = std::get_if<message::Submit>(&message);
  if (submitted == nullptr) return;
  for (const Payload& payload : submitted->payloads) {
    if (payload.unpacked_bytes > kUnpackAtMost) continue;
    const auto bytes = unpack_payload(payload);
    if (!bytes) continue;
    CHECK(payload.unpacked_bytes == 0 || bytes->size() == payload.unpacked_bytes);
    const Failure failure = decode_failure(*bytes);
    CHECK(decode_failure(encode_failure(failure)).kind.size() <= limits::kMaxNameBytes);
    if (const auto task = decode_command_task(*bytes)) encode_command_task(*task);
    if (const auto result = decode_command_result(*bytes)) encode_command_result(*result);
  }
}

void run(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  Frames frames;
  while (!input.empty() && frames.size() < 16) {
    const std::size_t high = input.byte();
    const std::size_t low = input.byte();
    frames.push_back(Bytes::copy(input.take(high << 8 | low)));
  }
  const auto decoded = decode(frames);
  if (const auto* error = std::get_if<DecodeError>(&decoded)) {
    CHECK(!error->reason.empty());
    return;
  }
  const Message& message = std::get<Message>(decoded);
  check_again(message, Packing::never);
  check_again(message, Packing::when_smaller);
  read_bodies(message);
}

}  // namespace
}  // namespace muster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  muster::run(data, size);
  return 0;
}
