// The codec keeps every message as it was, and its wire form does not change by accident.
// Hostile input: codec_hostile_test.cpp.
#include "common/protocol/codec.hpp"

#include <gtest/gtest.h>

#include "tests/support/messages.hpp"

namespace muster {
namespace {

using testing::kLastAttempt;
using testing::kLastSequence;
using testing::kSession;
using testing::packed_payload;
using testing::payload_of;
using testing::sample_messages;

std::string hex(const Bytes& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes.text()) {
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

// The message after a journey; a test that ends here prints why it was refused.
Message carried(const Frames& frames) {
  auto decoded = decode(frames);
  if (const auto* error = std::get_if<DecodeError>(&decoded)) {
    ADD_FAILURE() << error->reason;
    return message::Goodbye{};
  }
  return std::get<Message>(std::move(decoded));
}
template <typename Kind>
Kind carried_as(const Message& message) {
  return std::get<Kind>(carried(encode(message, Packing::never)));
}

class EveryMessage : public ::testing::TestWithParam<std::size_t> {
 protected:
  const Message message_ = sample_messages()[GetParam()];
};

TEST_P(EveryMessage, HasItsTypeNumber) {
  EXPECT_EQ(message_.index(), GetParam()) << "sample_messages() is in the order of the types";
  const Bytes frame = encode(message_, Packing::never)[0];
  EXPECT_EQ(frame.text()[0], 0) << "a plain frame 0";
  // The head of a msgpack array of 16 fields or more has three bytes instead of one.
  const std::size_t place = frame.text()[1] == '\xdc' ? 4 : 2;
  EXPECT_EQ(static_cast<std::size_t>(frame.text()[place]), GetParam() + 1) << name_of(message_);
}

TEST_P(EveryMessage, ArrivesAsItWasSent) {
  const Frames plain = encode(message_, Packing::never);
  for (const Packing packing : {Packing::never, Packing::when_smaller}) {
    const Message arrived = carried(encode(message_, packing));
    EXPECT_EQ(arrived.index(), message_.index());
    EXPECT_EQ(encode(arrived, Packing::never), plain) << name_of(message_);
  }
}

TEST_P(EveryMessage, IsRefusedWhenItIsCutOffAnywhere) {
  const Frames frames = encode(message_, Packing::never);
  for (std::size_t size = 0; size < frames[0].size(); ++size) {
    Frames cut = frames;
    cut[0] = frames[0].slice(0, size);
    ASSERT_TRUE(std::holds_alternative<DecodeError>(decode(cut))) << "cut to " << size;
  }
}

TEST_P(EveryMessage, IsRefusedWithABitTurnedOrElseStaysReadable) {
  const Frames frames = encode(message_, Packing::never);
  for (std::size_t bit = 0; bit < std::min<std::size_t>(frames[0].size(), 400) * 8; ++bit) {
    std::string text(frames[0].text());
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    Frames damaged = frames;
    damaged[0] = Bytes::copy(text);
    const auto decoded = decode(damaged);
    if (const auto* message = std::get_if<Message>(&decoded)) encode(*message, Packing::never);
  }
}

INSTANTIATE_TEST_SUITE_P(Codec, EveryMessage,
                         ::testing::Range<std::size_t>(0, std::variant_size_v<Message>),
                         [](const auto& one) {
                           return std::string(name_of(sample_messages()[one.param]));
                         });

TEST(Codec, GreetingsAreSeenWithoutDecoding) {
  for (const Message& message : sample_messages()) {
    const bool greets = std::holds_alternative<message::HelloProducer>(message) ||
                        std::holds_alternative<message::HelloWorker>(message) ||
                        std::holds_alternative<message::HelloBulk>(message);
    for (const Packing packing : {Packing::never, Packing::when_smaller}) {
      const Bytes frame = encode(message, packing).front();
      const bool may_be = may_be_greeting({frame.data(), frame.size()});
      const bool is_certain = greets || packing == Packing::never;
      EXPECT_EQ(is_certain && may_be, greets) << name_of(message);
    }
  }
  EXPECT_FALSE(may_be_greeting({}));
}

TEST(Codec, FieldsArriveInTheirPlaces) {
  const auto hello = carried_as<message::HelloWorker>(sample_messages()[1]);
  EXPECT_EQ(hello.worker, testing::kWorker);
  EXPECT_EQ(hello.node, "node7");
  EXPECT_EQ(hello.executor, "process");
  EXPECT_EQ(hello.process_id, 4711U);
  EXPECT_EQ(hello.slots, 16U);
  EXPECT_TRUE(hello.runs_commands);
  EXPECT_EQ(hello.functions, (std::vector<std::string>{"square", "word_count"}));
  ASSERT_EQ(hello.held.size(), 1U);
  EXPECT_EQ(hello.held[0].session, kSession);
  EXPECT_EQ(hello.held[0].leases[1], (LeaseRange{kLastSequence, 1, kLastAttempt}));

  const auto job = carried_as<message::Job>(sample_messages()[7]);
  EXPECT_EQ(job.spec, std::get<message::Job>(sample_messages()[7]).spec);

  const auto outcomes = carried_as<message::WorkerOutcomes>(sample_messages()[17]);
  EXPECT_EQ(outcomes.busy, std::chrono::nanoseconds(123'456'789));
  ASSERT_EQ(outcomes.runs.size(), 2U);
  EXPECT_EQ(outcomes.runs[0].outcomes[3].body.unpacked_bytes, 9000U);
  EXPECT_EQ(outcomes.runs[1].outcomes[3].status, OutcomeStatus::lost);
  EXPECT_EQ(outcomes.runs[1].outcomes[3].body.bytes.size(), limits::kLargePayloadBytes);
}

// If one of these fails, the protocol has changed: raise limits::kProtocolVersion.
TEST(Codec, TheWireFormIsPinned) {
  const auto wire = [](const Message& message) { return hex(encode(message, Packing::never)[0]); };
  const std::string session = "c4100102030405060708090a0b0c0d0e0f10";
  EXPECT_EQ(wire(message::Goodbye{}), "009107");
  EXPECT_EQ(wire(message::Heartbeat{300, true}), "009306cd012cc3");
  EXPECT_EQ(wire(message::HelloProducer{1, "0.1", kSession, "me", false}),
            "00960101a3302e31" + session + "a26d65c2");
  EXPECT_EQ(wire(message::Refuse{message::RefuseCode::malformed, "no"}), "00930402a26e6f");
  EXPECT_EQ(wire(message::Job{JobId{1}, {{FunctionKind::native, "f"}, {}, 2, -1, 3}}),
            "00930801"
            "9d00a166a0c4000002ff0300c29300000090c2");
  EXPECT_EQ(wire(message::Submit{JobId{1}, TaskSequence{2}, {payload_of(1), {}}}),
            "0094090102"
            "92c40100c400");
  EXPECT_EQ(wire(message::Tasks{kSession, JobId{1}, {{TaskSequence{2}, Attempt{0}, {{}}}}}),
            "009411" + session +
                "0191930200"
                "91c400");
  EXPECT_EQ(
      wire(message::Outcomes{
          JobId{1}, {{TaskSequence{2}, Attempt{0}, {{}, {OutcomeStatus::lost, payload_of(1)}}}}}),
      "00930c0191930200"
      "92c4009204c40100");
  EXPECT_EQ(
      wire(message::AcknowledgeLeases{kSession, JobId{1}, {{TaskSequence{2}, 300, Attempt{1}}}}),
      "009413" + session +
          "019193"
          "02cd012c01");
}

TEST(Codec, LargePayloadsTravelAsFramesInTheOrderOfMention) {
  const Payload large = payload_of(limits::kLargePayloadBytes);
  const Payload packed = packed_payload(5000);
  const Frames frames = encode(
      message::Submit{JobId{1}, TaskSequence{0}, {large, payload_of(1), packed}}, Packing::never);
  ASSERT_EQ(frames.size(), 3U);
  EXPECT_EQ(hex(frames[0]),
            "0094090100"
            "93c0c40100cd1388");
  EXPECT_EQ(frames[1].data(), large.bytes.data()) << "forwarded, not copied";
  EXPECT_EQ(frames[2].data(), packed.bytes.data());
  const auto decoded = decode(frames);
  const auto& submit = std::get<message::Submit>(std::get<Message>(decoded));
  EXPECT_EQ(submit.payloads[0].bytes.data(), large.bytes.data());
  EXPECT_EQ(submit.payloads[1].bytes.owner(), frames[0].owner()) << "a view of frame 0";
  EXPECT_EQ(submit.payloads[2].unpacked_bytes, 5000U);
}

TEST(Codec, APayloadOutlivesItsFrames) {
  Frames frames =
      encode(message::Submit{JobId{1}, TaskSequence{0}, {payload_of(100)}}, Packing::when_smaller);
  Message message = carried(frames);
  frames.clear();
  carried(encode(message::Heartbeat{}, Packing::never));  // reuses the decoder's memory
  EXPECT_EQ(std::get<message::Submit>(message).payloads[0].bytes, payload_of(100).bytes);
}

TEST(Codec, FrameZeroIsPackedFromItsThresholdOnIfThatMakesItSmaller) {
  const auto flag_of = [](std::size_t text_bytes, Packing packing) {
    const message::Notice notice{JobId{1}, std::string(text_bytes, 'n')};
    return encode(notice, packing)[0].text()[0];
  };
  const std::size_t header_bytes = 6;  // array, type, job, and the text's own three
  const std::size_t threshold = limits::kPackThresholdBytes - header_bytes;
  EXPECT_EQ(flag_of(threshold - 1, Packing::when_smaller), 0);
  EXPECT_EQ(flag_of(threshold, Packing::when_smaller), 1);
  EXPECT_EQ(flag_of(threshold + 1, Packing::when_smaller), 1);
  EXPECT_EQ(flag_of(100'000, Packing::never), 0);

  std::string noise;  // lz4 finds no repetition in it
  for (std::uint32_t i = 0, state = 1; i < 2000; ++i) {
    state = state * 1664525 + 1013904223;
    noise += static_cast<char>(state >> 24);
  }
  const message::Submit submit{JobId{1}, TaskSequence{0}, {{Bytes::copy(noise), 0}}};
  EXPECT_EQ(encode(submit, Packing::when_smaller)[0].text()[0], 0);
}

}  // namespace
}  // namespace muster
