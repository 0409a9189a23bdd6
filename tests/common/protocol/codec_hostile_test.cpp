// The codec against peers that lie: every limit at its edge, and frames that nobody of ours makes.
#include <gtest/gtest.h>

#include <functional>
#include <msgpack.hpp>

#include "common/protocol/codec.hpp"
#include "common/protocol/codec_wire.hpp"
#include "common/time.hpp"
#include "tests/support/little_memory.hpp"
#include "tests/support/messages.hpp"

namespace muster {
namespace {

using message::RefuseCode;
using testing::kSession;
using testing::kWorker;
using testing::LittleMemory;
using testing::payload_of;

constexpr std::uint64_t kSequenceEnd = std::uint64_t{1} << 62;

struct Buffer {
  std::string& text;
  void write(const char* data, std::size_t size_bytes) { text.append(data, size_bytes); }
};
using Packer = msgpack::packer<Buffer>;

// Frame 0 as a hostile peer would write it.
Bytes frame(const std::function<void(Packer&)>& write) {
  std::string text(1, wire::kPlainFlag);
  Buffer buffer{text};
  Packer packer(buffer);
  write(packer);
  return Bytes::copy(text);
}
Bytes raw(std::string_view text) { return Bytes::copy(text); }
Bytes packed_frame(std::uint32_t declared_bytes, std::string_view block) {
  std::string text(wire::kPackedHeaderBytes, wire::kPackedFlag);
  wire::store_be32(text.data() + 1, declared_bytes);
  return Bytes::copy(text.append(block));
}

void expect_accepted(const Frames& frames) {
  const auto decoded = decode(frames);
  const auto* error = std::get_if<DecodeError>(&decoded);
  EXPECT_EQ(error, nullptr) << error->reason;
}
void expect_refused(const Frames& frames, RefuseCode code, std::string_view reason) {
  const auto decoded = decode(frames);
  const auto* error = std::get_if<DecodeError>(&decoded);
  ASSERT_NE(error, nullptr) << "accepted, but: " << reason;
  EXPECT_EQ(error->code, code) << error->reason;
  EXPECT_NE(error->reason.find(reason), std::string::npos) << error->reason;
}
// `make(n)` is legal for n = limit - 1 and limit, and no more for limit + 1.
void expect_limit(std::uint64_t limit, RefuseCode code,
                  const std::function<Message(std::uint64_t)>& make) {
  expect_accepted(encode(make(limit - 1), Packing::never));
  expect_accepted(encode(make(limit), Packing::never));
  expect_refused(encode(make(limit + 1), Packing::never), code, "");
}

TEST(CodecLimits, Texts) {
  expect_limit(limits::kMaxNameBytes, RefuseCode::over_limit, [](std::uint64_t n) {
    return message::HelloProducer{1, "0", kSession, std::string(n, 'x'), false};
  });
  expect_limit(limits::kMaxTextBytes, RefuseCode::over_limit, [](std::uint64_t n) {
    return message::Notice{JobId{1}, std::string(n, 'x')};
  });
  expect_limit(limits::kMaxTextBytes, RefuseCode::over_limit, [](std::uint64_t n) {
    return message::Refuse{RefuseCode::identity, std::string(n, 'x')};
  });
}

TEST(CodecLimits, Lists) {
  expect_limit(limits::kBatchTasks, RefuseCode::over_limit, [](std::uint64_t n) {
    return message::Submit{JobId{1}, TaskSequence{0}, std::vector<Payload>(n)};
  });
  expect_limit(limits::kBatchTasks, RefuseCode::over_limit, [](std::uint64_t n) {
    return message::Outcomes{JobId{1}, {{TaskSequence{0}, Attempt{0}, std::vector<Outcome>(n)}}};
  });
  expect_limit(limits::kMaxReportedLeases, RefuseCode::over_limit, [](std::uint64_t n) {
    return message::Cancel{JobId{1}, std::vector<SequenceRange>(n, {TaskSequence{0}, 1})};
  });
  expect_limit(limits::kMaxFunctions, RefuseCode::over_limit, [](std::uint64_t n) {
    message::HelloWorker hello;
    hello.worker = kWorker;
    hello.slots = 1;
    hello.functions.resize(n);
    return hello;
  });
}

TEST(CodecLimits, LeasesThatAWorkerReports) {
  const auto reporting = [](std::vector<LeaseRange> leases) {
    message::HelloWorker hello;
    hello.worker = kWorker;
    hello.slots = 1;
    hello.held = {{kSession, JobId{1}, {{TaskSequence{0}, 1, Attempt{0}}}},
                  {kSession, JobId{2}, std::move(leases)}};
    return hello;
  };
  expect_limit(limits::kMaxHeldLeases - 1, RefuseCode::over_limit, [&](std::uint64_t n) {
    return reporting({{TaskSequence{0}, n, Attempt{0}}});
  });
  expect_refused(
      encode(reporting({4, {TaskSequence{0}, kSequenceEnd, Attempt{0}}}), Packing::never),
      RefuseCode::over_limit, "more leases");
}

TEST(CodecLimits, Numbers) {
  expect_limit(limits::kMaxSlots, RefuseCode::malformed, [](std::uint64_t n) {
    message::HelloWorker hello;
    hello.worker = kWorker;
    hello.slots = static_cast<std::uint32_t>(n);
    return hello;
  });
  expect_limit(kSequenceEnd - 1, RefuseCode::malformed, [](std::uint64_t n) {
    return message::Submit{JobId{1}, TaskSequence{n}, {{}}};
  });
  expect_limit(kSequenceEnd - 1, RefuseCode::malformed, [](std::uint64_t n) {
    return message::Cancel{JobId{1}, {{TaskSequence{n}, 1}}};
  });
  expect_limit(kSequenceEnd, RefuseCode::malformed, [](std::uint64_t n) {
    return message::AcknowledgeOutcomes{JobId{1}, {{TaskSequence{0}, n}}};
  });
  expect_limit(4, RefuseCode::malformed, [](std::uint64_t n) {
    return message::Submit{JobId{1}, TaskSequence{kSequenceEnd - 4}, std::vector<Payload>(n)};
  });
  expect_limit(0x7fffffff, RefuseCode::malformed, [](std::uint64_t n) {
    return message::Recall{
        kSession, JobId{1}, {{TaskSequence{0}, 1, Attempt{static_cast<std::uint32_t>(n)}}}};
  });
  constexpr std::uint64_t kCenturyMs = std::uint64_t{100} * 366 * 24 * 3600 * 1000;
  expect_limit(kCenturyMs, RefuseCode::malformed, [](std::uint64_t n) {
    return message::Job{JobId{1},
                        {{}, std::chrono::milliseconds(static_cast<std::int64_t>(n)), 0, 0, 1}};
  });
}

TEST(CodecHostile, AWorkerWithoutSlots) {
  message::HelloWorker hello;
  hello.worker = kWorker;
  hello.slots = 0;
  expect_refused(encode(hello, Packing::never), RefuseCode::malformed, "slots");
}

TEST(CodecLimits, FrameZero) {
  const auto of_size = [](std::size_t size) {
    constexpr std::size_t kHeader = 11;  // flag, array, type, job, first, list, bin and its size
    return Frames{frame([&](Packer& p) {
      p.pack_array(4).pack(9).pack(1).pack(0).pack_array(1);
      const std::string body(size - kHeader, 'x');
      p.pack_bin(static_cast<std::uint32_t>(body.size()));
      p.pack_bin_body(body.data(), static_cast<std::uint32_t>(body.size()));
    })};
  };
  ASSERT_EQ(of_size(limits::kMaxFrameZeroBytes)[0].size(), limits::kMaxFrameZeroBytes);
  expect_accepted(of_size(limits::kMaxFrameZeroBytes - 1));
  expect_accepted(of_size(limits::kMaxFrameZeroBytes));
  expect_refused(of_size(limits::kMaxFrameZeroBytes + 1), RefuseCode::over_limit, "over the limit");
}

TEST(CodecLimits, FramesOfOneMessage) {
  const Payload tiny{raw("x"), 1};  // packed: a frame of its own, however small
  Frames frames = encode(
      message::Submit{JobId{1}, TaskSequence{0}, std::vector<Payload>(1024, tiny)}, Packing::never);
  ASSERT_EQ(frames.size(), limits::kMaxFrames);
  expect_accepted(frames);
  frames.push_back(raw("x"));
  expect_refused(frames, RefuseCode::malformed, "number of frames");
  expect_refused({}, RefuseCode::malformed, "number of frames");
}

TEST(CodecLimits, UnpackedSizeOfAPayload) {
  const Bytes large = payload_of(limits::kMaxPayloadBytes / limits::kMaxExpansion + 1).bytes;
  const auto submit = [&](std::uint32_t unpacked, const Bytes& bytes) {
    return encode(message::Submit{JobId{1}, TaskSequence{0}, {{bytes, unpacked}}}, Packing::never);
  };
  expect_accepted(submit(limits::kMaxPayloadBytes - 1, large));
  expect_accepted(submit(limits::kMaxPayloadBytes, large));
  expect_refused(submit(limits::kMaxPayloadBytes + 1, large), RefuseCode::over_limit, "limit");
  expect_accepted(submit(255 * 10, raw("0123456789")));
  expect_refused(submit(255 * 11, raw("0123456789")), RefuseCode::malformed, "lz4 can hold");
  expect_refused(submit(UINT32_MAX, raw("")), RefuseCode::over_limit, "limit");
}

TEST(CodecLimits, Blobs) {
  const BlobName name{testing::kBlob, 5};
  expect_limit(limits::kMaxPayloadBlobs, RefuseCode::over_limit, [&](std::uint64_t n) {
    const Payload payload = with_blobs(std::vector<BlobName>(n, name), payload_of(1));
    return message::Submit{JobId{1}, TaskSequence{0}, {payload}};
  });
  expect_limit(limits::kMaxBlobEntries, RefuseCode::over_limit, [&](std::uint64_t n) {
    return message::BlobPut{std::vector<BlobSource>(n, {name, BlobPlace::kept})};
  });
  expect_limit(limits::kMaxBlobEntries, RefuseCode::over_limit, [&](std::uint64_t n) {
    return message::BlobRelease{std::vector<BlobId>(n, name.id)};
  });
  expect_limit(limits::kMaxBlobEntries, RefuseCode::over_limit, [&](std::uint64_t n) {
    return message::WorkerBlobs{false, std::vector<BlobName>(n, name), {}, 0};
  });
  expect_limit(limits::kMaxPathBytes, RefuseCode::over_limit, [&](std::uint64_t n) {
    return message::BlobPut{{{name, BlobPlace::file, std::string(n, '/'), 0}}};
  });
  expect_limit(limits::kBlobChunkBytes, RefuseCode::malformed, [&](std::uint64_t n) {
    return message::BlobWant{name.id, UINT64_MAX, static_cast<std::uint32_t>(n)};
  });
  expect_limit(limits::kBlobChunkBytes, RefuseCode::over_limit, [&](std::uint64_t n) {
    return message::BlobChunk{name.id, 0, payload_of(n)};
  });
}

TEST(CodecHostile, NamesOfBlobsThatAreNone) {
  const auto malformed = RefuseCode::malformed;
  const auto submit = [](const Payload& payload) {
    return encode(message::Submit{JobId{1}, TaskSequence{0}, {payload}}, Packing::never);
  };
  const Payload one = with_blobs(std::vector<BlobName>{{testing::kBlob, 5}}, payload_of(3));
  expect_accepted(submit(one));
  expect_refused(submit({one.bytes, 0, 2}), malformed, "names of its blobs");
  expect_refused(submit({{}, 0, 1}), malformed, "names of its blobs");
  expect_refused(submit({one.bytes, 0, UINT32_MAX}), RefuseCode::over_limit, "too many blobs");
  expect_refused(submit(with_blobs(std::vector<BlobName>{{{0, 0}, 5}}, {})), malformed, "zeros");
  const auto submit_map = [](std::uint32_t pairs, std::uint32_t count) {
    return Frames{frame([&](Packer& p) {
      p.pack_array(4).pack(9).pack(1).pack(0).pack_array(1).pack_map(pairs);
      for (std::uint32_t i = 0; i < pairs; ++i) {
        p.pack(count).pack_bin(24).pack_bin_body(std::string(24, 'x').data(), 24);
      }
    })};
  };
  expect_accepted(submit_map(1, 1));
  expect_refused(submit_map(1, 0), malformed, "no blobs");
  expect_refused(submit_map(0, 1), malformed, "");
  expect_refused(submit_map(2, 1), malformed, "");
  const auto want = [](std::uint32_t bytes) {
    return encode(message::BlobWant{testing::kBlob, 0, bytes}, Packing::never);
  };
  expect_refused(want(0), malformed, "");
  const Payload named = with_blobs(std::vector<BlobName>{{testing::kBlob, 5}}, {});
  expect_refused(encode(message::BlobChunk{testing::kBlob, 0, named}, Packing::never),
                 RefuseCode::over_limit, "");
  // Unpacks to more than a chunk.
  const Payload bomb{payload_of(limits::kBlobChunkBytes / 100).bytes, limits::kBlobChunkBytes + 1};
  expect_refused(encode(message::BlobChunk{testing::kBlob, 0, bomb}, Packing::never),
                 RefuseCode::over_limit, "");
}

TEST(CodecHostile, FrameZeroThatIsNoMessage) {
  const auto malformed = RefuseCode::malformed;
  expect_refused({raw("")}, malformed, "empty");
  expect_refused({raw(std::string_view("\0", 1))}, malformed, "msgpack");
  expect_refused({raw("\x02\x91\x07")}, malformed, "flag byte");
  expect_refused({raw("GET / HTTP/1.1\r\n\r\n")}, malformed, "flag byte");
  expect_refused({frame([](Packer& p) { p.pack(7); })}, malformed, "an array");
  expect_refused({frame([](Packer& p) { p.pack_array(0); })}, malformed, "too few");
  expect_refused({frame([](Packer& p) { p.pack_map(1).pack(7).pack(7); })}, malformed, "an array");
  expect_refused({frame([](Packer& p) { p.pack_ext(1, 1).pack_ext_body("x", 1); })}, malformed,
                 "msgpack");
  for (const int type : {0, 200, 255}) {
    expect_refused({frame([&](Packer& p) { p.pack_array(1).pack(type); })}, malformed, "type");
  }
  expect_refused({frame([](Packer& p) { p.pack_array(1).pack(256); })}, malformed, "in range");
  expect_refused({frame([](Packer& p) { p.pack_array(1).pack(-1); })}, malformed, "in range");
  expect_refused({frame([](Packer& p) { p.pack_array(1).pack(7.5); })}, malformed, "integer");
  expect_refused({frame([](Packer& p) { p.pack_array(1).pack(7).pack(7); })}, malformed, "follow");
}

TEST(CodecHostile, FieldsOfTheWrongKindOrNumber) {
  const auto malformed = RefuseCode::malformed;
  const auto heartbeat = [](const auto& token, const auto& flag) {
    return Frames{frame([&](Packer& p) { p.pack_array(3).pack(6).pack(token).pack(flag); })};
  };
  expect_accepted(heartbeat(UINT64_MAX, true));
  expect_refused(heartbeat(-1, true), malformed, "in range");
  expect_refused(heartbeat("1", true), malformed, "integer");
  expect_refused(heartbeat(1, 1), malformed, "boolean");
  expect_refused({frame([](Packer& p) { p.pack_array(2).pack(6).pack(1); })}, malformed, "few");
  expect_refused({frame([](Packer& p) { p.pack_array(2).pack(7).pack(1); })}, malformed, "many");

  const auto unknown = [](std::string_view id) {
    return Frames{frame([&](Packer& p) {
      p.pack_array(2).pack(5).pack_bin(static_cast<std::uint32_t>(id.size()));
      p.pack_bin_body(id.data(), static_cast<std::uint32_t>(id.size()));
    })};
  };
  expect_accepted(unknown("0123456789abcdef"));
  expect_refused(unknown("0123456789abcde"), malformed, "16 bytes");
  expect_refused(unknown("0123456789abcdefg"), malformed, "16 bytes");
  expect_refused(unknown(std::string(16, '\0')), malformed, "zeros");

  const auto refuse = [](int code) {
    return Frames{frame([&](Packer& p) { p.pack_array(3).pack(4).pack(code).pack("text"); })};
  };
  expect_accepted(refuse(5));
  expect_refused(refuse(6), malformed, "outside its range");
  expect_refused(refuse(300), malformed, "in range");
  const auto encoded = [](const Message& message) { return encode(message, Packing::never); };
  expect_refused(encoded(message::Job{JobId{1}, {{}, {}, 0, 0, 0}}), malformed, "crash budget");
  expect_refused(encoded(message::Job{JobId{1}, {{}, std::chrono::milliseconds(-1), 0, 0, 1}}),
                 malformed, "time");
  expect_refused(encoded(message::WorkerOutcomes{kSession, JobId{1}, Duration(-1), {}}), malformed,
                 "negative");
  expect_refused(encoded(message::Submit{JobId{1}, TaskSequence{0}, {}}), malformed, "empty");
  expect_refused(encoded(message::Cancel{JobId{1}, {{TaskSequence{0}, 0}}}), malformed, "empty");
  expect_refused(encoded(message::Tasks{kSession, JobId{1}, {{}}}), malformed, "empty");
}

TEST(CodecHostile, PayloadFramesThatDoNotFit) {
  Frames frames =
      encode(message::Submit{JobId{1}, TaskSequence{0}, {payload_of(5000), payload_of(6000)}},
             Packing::never);
  expect_accepted(frames);
  frames.pop_back();
  expect_refused(frames, RefuseCode::malformed, "missing");
  frames.resize(4);
  expect_refused(frames, RefuseCode::malformed, "nothing mentions");
  expect_refused({encode(message::Goodbye{}, Packing::never)[0], raw("")}, RefuseCode::malformed,
                 "nothing mentions");
  const auto payload = [](const auto& form) {
    return Frames{
        frame([&](Packer& p) { p.pack_array(4).pack(9).pack(1).pack(0).pack_array(1).pack(form); }),
        raw("x")};
  };
  expect_accepted(payload(msgpack::type::nil_t{}));
  expect_refused(payload(0), RefuseCode::malformed, "no bytes");
  expect_refused(payload(-1), RefuseCode::malformed, "a payload");
  expect_refused(payload("x"), RefuseCode::malformed, "a payload");
  expect_refused(payload(UINT64_MAX), RefuseCode::malformed, "in range");
}

TEST(CodecHostile, ShortFramesCannotAskForMuchMemory) {
  const LittleMemory little_memory;
  const auto malformed = RefuseCode::malformed;
  using namespace std::string_literals;
  expect_refused({raw("\0\xdd\xff\xff\xff\xff"s)}, RefuseCode::over_limit, "list");
  expect_refused({raw("\0\x94\x09\x01\x00\xdd\xff\xff\xff\xff"s)}, RefuseCode::over_limit, "list");
  expect_refused({raw("\0\x94\x09\x01\x00\xdd\x00\x01\x00\x00"s)}, malformed, "msgpack");
  for (const char* header : {"\xc6", "\xdb", "\xdf", "\xc9"}) {  // bin, str, map, ext of 4 GiB
    const std::string text = "\0\x91"s + header + "\xff\xff\xff\xff";
    expect_refused({raw(text)}, malformed, "msgpack");
  }
  expect_refused({raw("\0"s + std::string(100'000, '\x91'))}, malformed, "msgpack");
  std::string nested(1, '\0');  // arrays of the greatest legal size, each in the other
  for (int i = 0; i < 7; ++i) nested += "\xdd\x00\x01\x00\x00"s;
  expect_refused({raw(nested)}, malformed, "msgpack");
}

TEST(CodecHostile, PackedFrameZeroThatLies) {
  const LittleMemory little_memory;
  const auto malformed = RefuseCode::malformed;
  using namespace std::string_literals;
  expect_refused({raw("\x01")}, malformed, "cut off");
  expect_refused({packed_frame(10, "")}, malformed, "cut off");
  expect_refused({packed_frame(UINT32_MAX, "x")}, RefuseCode::over_limit, "limit");
  expect_refused({packed_frame(limits::kMaxFrameZeroBytes + 1, "x")}, RefuseCode::over_limit, "");
  expect_refused({packed_frame(limits::kMaxFrameZeroBytes, "x")}, malformed, "lz4");
  expect_refused({packed_frame(0, "x")}, malformed, "");
  expect_refused({packed_frame(100, std::string(100, '\xff'))}, malformed, "lz4");
  // A block that unpacks to less, and to more, than it declares.
  const Payload block = testing::packed_payload(5000);
  for (const std::uint32_t declared : {4999U, 5001U}) {
    expect_refused({packed_frame(declared, block.bytes.text())}, malformed, "lz4");
  }
  expect_refused({packed_frame(5000, block.bytes.text())}, malformed, "follow");
}

}  // namespace
}  // namespace muster
