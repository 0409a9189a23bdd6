// Frames to messages, for input that may be hostile. Mirror of codec_encode.cpp.
#include <lz4.h>

#include <algorithm>
#include <msgpack.hpp>
#include <string>
#include <type_traits>

#include "common/protocol/codec.hpp"
#include "common/protocol/codec_reader.hpp"
#include "common/protocol/codec_wire.hpp"

namespace muster {
namespace {

using message::RefuseCode;
using wire::Fault;
using wire::Reader;

const msgpack::unpack_limit& unpack_limits() {
  static const msgpack::unpack_limit kLimits(
      limits::kMaxReportedLeases, 1, limits::kMaxFrameZeroBytes, limits::kMaxFrameZeroBytes, 0, 8);
  return kLimits;
}

void read(Reader& r, message::HelloProducer& m) {
  r.each(m.protocol_version, m.software_version, m.session, m.label, m.resuming);
}
void read(Reader& r, message::HelloWorker& m) {
  r.get(m.protocol_version);
  r.get(m.software_version);
  r.get(m.worker);
  r.get(m.node);
  r.get(m.executor);
  r.get(m.process_id);
  r.get(m.slots);
  if (m.slots == 0 || m.slots > limits::kMaxSlots) throw Fault{"a number of slots out of range"};
  r.get(m.cores);
  r.get(m.memory_bytes);
  r.get(m.gpus);
  r.get(m.labels, limits::kMaxLabels);
  r.get(m.runs_commands);
  r.get(m.python);
  r.get(m.functions, limits::kMaxFunctions);
  r.get(m.held);
  r.finish();
  std::uint64_t held_count = 0;
  for (const message::HeldLeases& entry : m.held) {
    for (const LeaseRange& range : entry.leases) {
      held_count += std::min(range.count, std::uint64_t{limits::kMaxHeldLeases} + 1);
    }
  }
  if (held_count > limits::kMaxHeldLeases) {
    throw Fault{"more leases than a worker can hold", RefuseCode::over_limit};
  }
}
void read(Reader& r, message::Welcome& m) {
  r.get(m.protocol_version);
  r.get(m.software_version);
  r.get(m.incarnation);
  r.get(m.heartbeat_interval);
  r.get(m.heartbeat_misses);
  r.get(m.credit_tasks);
  r.get(m.credit_bytes);
  r.get(m.pack);
  r.get(m.jobs);
  r.get(m.proof);
  r.get_paths(m.blob_folders);
  r.get(m.blob_token);
  r.get(m.credit_blob_bytes);
  r.get(m.credit_memory_bytes);
  r.finish();
}
void read(Reader& r, message::Refuse& m) {
  r.get(m.code, RefuseCode::identity);
  r.get(m.text, limits::kMaxTextBytes);
  r.finish();
}
void read(Reader& r, message::Unknown& m) { r.each(m.incarnation); }
void read(Reader& r, message::Heartbeat& m) { r.each(m.token, m.reply_wanted); }
void read(Reader& r, message::Goodbye&) { r.finish(); }
void read(Reader& r, message::Job& m) { r.each(m.job, m.spec); }
void read(Reader& r, message::Submit& m) {
  r.get(m.job);
  r.get(m.first);
  r.get(m.payloads, limits::kBatchTasks);
  r.finish();
  Reader::check_run(m.first, m.payloads.size());
}
void read(Reader& r, message::EndJob& m) { r.each(m.job); }
void read(Reader& r, message::Cancel& m) { r.each(m.job, m.ranges); }
void read(Reader& r, message::Outcomes& m) { r.each(m.job, m.runs); }
void read(Reader& r, message::AcknowledgeOutcomes& m) { r.each(m.job, m.ranges); }
void read(Reader& r, message::ResultsHeld& m) { r.each(m.job, m.job_bytes, m.session_bytes); }
void read(Reader& r, message::Credit& m) { r.each(m.tasks, m.bytes); }
void read(Reader& r, message::Notice& m) {
  r.get(m.job);
  r.get(m.text, limits::kMaxTextBytes);
  r.finish();
}
void read(Reader& r, message::WorkerJob& m) { r.each(m.session, m.job, m.spec); }
void read(Reader& r, message::Tasks& m) { r.each(m.session, m.job, m.runs); }
void read(Reader& r, message::WorkerOutcomes& m) { r.each(m.session, m.job, m.busy, m.runs); }
void read(Reader& r, message::AcknowledgeLeases& m) { r.each(m.session, m.job, m.leases); }
void read(Reader& r, message::Recall& m) { r.each(m.session, m.job, m.leases); }
void read(Reader& r, message::Returned& m) { r.each(m.session, m.job, m.leases); }
void read(Reader& r, message::StopTasks& m) { r.each(m.session, m.job, m.leases); }
void read(Reader& r, message::ForgetJob& m) { r.each(m.session, m.job); }
void read(Reader& r, message::WorkerState& m) { r.each(m.stuck_slots, m.draining, m.paused); }
void read(Reader& r, message::StatusRequest&) { r.finish(); }
void read(Reader& r, message::Status& m) {
  r.each(m.software_version, m.incarnation, m.uptime_ms, m.total_slots, m.sessions, m.workers,
         m.jobs, m.counters, m.nodes);
}
void read(Reader& r, message::Output& m) {
  r.get(m.job);
  r.get(m.node);
  r.get(m.lines, limits::kMaxOutputLines);
  r.get(m.dropped);
  r.finish();
}
void read(Reader& r, message::Pool& m) { r.each(m.total_slots, m.workers); }
void read(Reader& r, message::WorkerOutput& m) {
  r.get(m.session);
  r.get(m.job);
  r.get(m.lines, limits::kMaxOutputLines);
  r.get(m.dropped);
  r.finish();
}

void read(Reader& r, message::NodesUp& m) {
  r.get(m.hosts, limits::kMaxHostsBytes);
  r.get(m.origin);
  r.finish();
}
void read(Reader& r, message::NodesDown& m) { r.each(m.names, m.end_broker); }
void read(Reader& r, message::NodesAnswer& m) {
  r.get(m.error, limits::kMaxTextBytes);
  r.get(m.names);
  r.finish();
}

void read(Reader& r, message::HelloBulk& m) {
  r.each(m.protocol_version, m.software_version, m.worker);
}
void read(Reader& r, message::BlobPut& m) {
  r.get(m.blobs, limits::kMaxBlobEntries);
  r.finish();
}
void read(Reader& r, message::BlobAnswers& m) {
  r.get(m.blobs, limits::kMaxBlobEntries);
  r.finish();
}
void read(Reader& r, message::BlobRelease& m) {
  r.get(m.blobs, limits::kMaxBlobEntries);
  r.finish();
}
void read(Reader& r, message::BlobWant& m) {
  r.get(m.blob);
  r.get(m.offset);
  r.get(m.bytes);
  r.finish();
  if (m.bytes == 0 || m.bytes > limits::kBlobChunkBytes)
    throw Fault{"a chunk of no or too many bytes"};
}
void read(Reader& r, message::BlobChunk& m) {
  r.get(m.blob);
  r.get(m.offset);
  r.get(m.content);
  r.finish();
  const std::size_t size_bytes =
      m.content.unpacked_bytes == 0 ? m.content.bytes.size() : m.content.unpacked_bytes;
  if (m.content.blobs != 0 || size_bytes > limits::kBlobChunkBytes) {
    throw Fault{"a chunk over the limit", RefuseCode::over_limit};
  }
}
void read(Reader& r, message::BlobGone& m) {
  r.get(m.blob);
  r.get(m.reason, limits::kMaxTextBytes);
  r.finish();
}
void read(Reader& r, message::WorkerBlobs& m) {
  r.get(m.shares);
  r.get(m.added, limits::kMaxBlobEntries);
  r.get(m.removed, limits::kMaxBlobEntries);
  r.get(m.waiting);
  r.finish();
}
void read(Reader& r, message::StoreRequest& m) {
  StoreQuestion& q = m.question;
  r.get(m.token);
  r.get(m.claimant);
  r.get(q.operation, StoreOperation::leave);
  r.get(q.store);
  r.get(q.key, limits::kMaxStoreKeyBytes);
  r.get(q.text, limits::kMaxTextBytes);
  r.get(q.value);
  r.get(q.file);
  r.get(q.offset);
  r.get(q.size_bytes);
  r.get(q.version);
  r.get(q.may_block);
  r.get(q.limits);
  r.finish();
  if (q.value.size() > kStorePieceBytes) {
    throw Fault{"a piece of a value over the limit", RefuseCode::over_limit};
  }
}
void read(Reader& r, message::StoreAnswer& m) {
  StoreReply& a = m.reply;
  r.get(m.token);
  r.get(a.status, StoreStatus::refused);
  r.get(a.text, limits::kMaxTextBytes);
  r.get(a.value);
  r.get(a.size_bytes);
  r.get(a.version);
  r.get(a.machine);
  r.get(a.file, limits::kMaxPathBytes);
  r.get(a.folder, limits::kMaxPathBytes);
  r.get(a.entries, limits::kMaxStoreEntries);
  r.finish();
  if (a.value.size() > kStorePieceBytes) {
    throw Fault{"a piece of a value over the limit", RefuseCode::over_limit};
  }
}

template <std::size_t Index = 0>
Message read_type(std::uint8_t type, Reader& reader) {
  if constexpr (Index == std::variant_size_v<Message>) {
    throw Fault{"unknown message type " + std::to_string(type)};
  } else if (type == Index + 1) {
    std::variant_alternative_t<Index, Message> message;
    read(reader, message);
    return message;
  } else {
    return read_type<Index + 1>(type, reader);
  }
}

// Frame 0 without its flag byte, unpacked.
Bytes open_frame_zero(const Bytes& frame) {
  if (frame.empty()) throw Fault{"frame 0 is empty"};
  if (frame.size() > limits::kMaxFrameZeroBytes) {
    throw Fault{"frame 0 is over the limit", RefuseCode::over_limit};
  }
  const char flag = frame.text()[0];
  if (flag == wire::kPlainFlag) return frame.slice(1, frame.size() - 1);
  if (flag != wire::kPackedFlag) throw Fault{"frame 0 has an unknown flag byte"};
  if (frame.size() <= wire::kPackedHeaderBytes) throw Fault{"frame 0 is cut off"};
  const std::uint32_t declared = wire::load_be32(frame.text().data() + 1);
  if (declared > limits::kMaxFrameZeroBytes) {
    throw Fault{"frame 0 is over the limit", RefuseCode::over_limit};
  }
  const auto plain = unpack_payload(
      {frame.slice(wire::kPackedHeaderBytes, frame.size() - wire::kPackedHeaderBytes), declared});
  if (!plain) throw Fault{"frame 0 is not a valid lz4 block"};
  return *plain;
}

template <typename Greeting, std::size_t Index = 0>
constexpr std::uint8_t type_of() {
  if constexpr (std::is_same_v<std::variant_alternative_t<Index, Message>, Greeting>) {
    return Index + 1;
  } else {
    return type_of<Greeting, Index + 1>();
  }
}

}  // namespace

bool may_be_greeting(std::span<const std::byte> frame) {
  if (frame.size() < 3) return false;
  const auto flag = static_cast<char>(frame[0]);
  if (flag != wire::kPlainFlag) return flag == wire::kPackedFlag;
  constexpr std::byte kShortArray{
      0x90};  // msgpack: of up to 15 elements, the low bits say how many
  constexpr std::byte kKindBits{0xf0};
  constexpr std::uint8_t kShortNumbers = 0x80;  // those below are one byte
  const auto type = static_cast<std::uint8_t>(frame[2]);
  if ((frame[1] & kKindBits) != kShortArray || type >= kShortNumbers) return true;
  return type == type_of<message::HelloProducer>() || type == type_of<message::HelloWorker>() ||
         type == type_of<message::HelloBulk>();
}

std::variant<Message, DecodeError> decode(std::span<const Bytes> frames) {
  try {
    if (frames.empty() || frames.size() > limits::kMaxFrames) throw Fault{"bad number of frames"};
    const Bytes body = open_frame_zero(frames[0]);
    thread_local msgpack::zone zone(std::size_t{64} << 10);
    zone.clear();
    std::size_t offset = 0;
    const msgpack::object object = msgpack::unpack(
        zone, body.text().data(), body.size(), offset,
        [](msgpack::type::object_type, std::size_t, void*) { return true; }, nullptr,
        unpack_limits());
    if (offset != body.size()) throw Fault{"bytes follow the message"};
    std::size_t large_used = 0;
    Reader reader(object, body, frames.subspan(1), large_used);
    std::uint8_t type = 0;
    reader.get(type);
    Message message = read_type(type, reader);
    if (large_used != frames.size() - 1) throw Fault{"a frame that nothing mentions"};
    return message;
  } catch (const Fault& fault) {
    return DecodeError{fault.reason, fault.code};
  } catch (const msgpack::array_size_overflow&) {
    return DecodeError{"a list over its limit", RefuseCode::over_limit};
  } catch (const msgpack::unpack_error& error) {
    return DecodeError{std::string("not valid msgpack: ") + error.what()};
  } catch (const std::bad_alloc&) {
    return DecodeError{"too large", RefuseCode::over_limit};
  }
}

}  // namespace muster
