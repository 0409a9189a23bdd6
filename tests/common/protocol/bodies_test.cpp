// What travels inside payloads: lz4 packing, failures, command tasks and their results.
#include <gtest/gtest.h>
#include <malloc.h>

#include <muster/pack.hpp>
#include <vector>

#include "common/protocol/codec.hpp"
#include "tests/support/little_memory.hpp"
#include "tests/support/messages.hpp"

namespace muster {
namespace {

using testing::payload_of;

TEST(PackedPayload, ComesBackAndPaysOnlyWhenItShrinks) {
  const Bytes text = Bytes::copy(std::string(100'000, 't'));
  const Payload packed = pack_payload(text, Packing::when_smaller);
  EXPECT_EQ(packed.unpacked_bytes, 100'000U);
  EXPECT_LT(packed.bytes.size(), 1000U);
  EXPECT_EQ(unpack_payload(packed), text);
  EXPECT_EQ(pack_payload(text, Packing::never).bytes.data(), text.data());

  std::string noise(100'000, '\0');
  std::uint32_t state = 1;
  for (char& c : noise) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  const Bytes dense = Bytes::copy(noise);
  const Payload unpacked = pack_payload(dense, Packing::when_smaller);
  EXPECT_EQ(unpacked.unpacked_bytes, 0U);
  EXPECT_EQ(unpacked.bytes.data(), dense.data());
}

// Bodies wait for long, and many at once: none may keep more memory than it has bytes.
TEST(Bodies, TakeTheMemoryOfTheirBytes) {
  constexpr std::size_t kBodies = 200;
  const auto expect_lean = [](const char* what, const auto& make) {
    std::vector<Bytes> kept;
    kept.reserve(kBodies);
    make();  // what a thread keeps for all of them
    const std::size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    for (std::size_t i = 0; i < kBodies; ++i) kept.push_back(make());
    const std::size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
    EXPECT_LT(after, before + kBodies * (kept.front().size() + 256)) << what;
  };
  expect_lean("failure", [] { return encode_failure({"kind", "message", "", {}}); });
  expect_lean("command task", [] {
    return encode_command_task({{"true"}, {}, {}, "/", 1, {}, {}});
  });
  expect_lean("command result", [] { return encode_command_result({}); });
  const Bytes text = Bytes::copy(std::string(100'000, 't'));
  expect_lean("packed", [&] { return pack_payload(text, Packing::when_smaller).bytes; });
  expect_lean("value", [] { return pack_value(std::string("value")); });
}

TEST(PackedPayload, OnlyLargeOnesArePacked) {
  const auto packed = [](std::size_t size) {
    const Bytes text = Bytes::copy(std::string(size, 't'));
    return pack_payload(text, Packing::when_smaller).unpacked_bytes;
  };
  EXPECT_EQ(packed(limits::kLargePayloadBytes - 1), 0U);
  EXPECT_EQ(packed(limits::kLargePayloadBytes), limits::kLargePayloadBytes);
  EXPECT_EQ(packed(limits::kLargePayloadBytes + 1), limits::kLargePayloadBytes + 1);
}

TEST(PackedPayload, DamageAndLiesAreFound) {
  const Payload packed = testing::packed_payload(100'000);
  for (const std::uint32_t declared : {1U, 99'999U, 100'001U, UINT32_MAX}) {
    EXPECT_FALSE(unpack_payload({packed.bytes, declared})) << declared;
  }
  EXPECT_FALSE(unpack_payload({packed.bytes.slice(0, packed.bytes.size() / 2), 100'000}));
  EXPECT_FALSE(unpack_payload({Bytes{}, 100}));
}

TEST(PackedPayload, AFewBytesCannotAskForMuchMemory) {
  const testing::LittleMemory little_memory;
  for (const char* bytes : {"", "x", "a few bytes"}) {
    const Payload payload{Bytes::copy(bytes), limits::kMaxPayloadBytes};
    EXPECT_NO_THROW(EXPECT_FALSE(unpack_payload(payload))) << bytes;
  }
}

TEST(FailureBody, ComesBack) {
  const Failure failure{"exception", "ValueError: no", "Traceback …", Bytes::copy("pickle")};
  EXPECT_EQ(decode_failure(encode_failure(failure)), failure);
  EXPECT_EQ(decode_failure(encode_failure({})), Failure{});
  const Outcome outcome = failed(OutcomeStatus::timed_out, failure);
  EXPECT_EQ(outcome.status, OutcomeStatus::timed_out);
  EXPECT_EQ(outcome.body.unpacked_bytes, 0U);
  EXPECT_EQ(decode_failure(outcome.body.bytes), failure);
}

TEST(FailureBody, LongTextsAreCut) {
  const std::string long_text(limits::kMaxTextBytes + 1, 'x');
  const Failure back =
      decode_failure(encode_failure({std::string(1000, 'k'), long_text, long_text, {}}));
  EXPECT_EQ(back.kind.size(), limits::kMaxNameBytes);
  EXPECT_EQ(back.message.size(), limits::kMaxTextBytes);
  EXPECT_EQ(back.traceback.size(), limits::kMaxTextBytes);
}

TEST(FailureBody, AnyBytesMakeAFailure) {
  for (const char* text : {"", "\xc1", "\x90", "\x94\x01\x02\x03\x04", "garbage"}) {
    EXPECT_EQ(decode_failure(Bytes::copy(text)).kind, "unreadable");
  }
}

TEST(CommandBody, TaskComesBack) {
  const CommandTask task{
      {"sh", "-c", "echo $A"}, payload_of(5000).bytes, {{"A", "1"}, {"B", ""}}, "/tmp", 1 << 20};
  const auto back = decode_command_task(encode_command_task(task));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->argv, task.argv);
  EXPECT_EQ(back->input, task.input);
  EXPECT_EQ(back->environment, task.environment);
  EXPECT_EQ(back->directory, task.directory);
  EXPECT_EQ(back->output_limit_bytes, task.output_limit_bytes);
  EXPECT_TRUE(decode_command_task(encode_command_task({})));
}

TEST(CommandBody, ResultComesBack) {
  const CommandResult result{-1,  9,      Bytes::copy("out"), Bytes::copy("err"), true, UINT64_MAX,
                             123, "node7"};
  const auto back = decode_command_result(encode_command_result(result));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->exit_status, -1);
  EXPECT_EQ(back->signal, 9);
  EXPECT_EQ(back->output.text(), "out");
  EXPECT_EQ(back->error_output.text(), "err");
  EXPECT_TRUE(back->truncated);
  EXPECT_EQ(back->started_unix_us, UINT64_MAX);
  EXPECT_EQ(back->runtime_us, 123U);
  EXPECT_EQ(back->node, "node7");
}

TEST(CommandBody, OtherBytesAreNoCommand) {
  for (const char* text : {"", "\xc1", "\x90", "\x95\x01\x02\x03\x04\x05", "garbage"}) {
    EXPECT_FALSE(decode_command_task(Bytes::copy(text)));
    EXPECT_FALSE(decode_command_result(Bytes::copy(text)));
  }
  const Bytes task = encode_command_task({{"true"}, {}, {}, "", 0});
  EXPECT_FALSE(decode_command_result(task));
  EXPECT_FALSE(decode_command_task(task.slice(0, task.size() - 1)));
}

}  // namespace
}  // namespace muster
