// Messages to frames. Field order is docs/protocol.md's; codec_decode.cpp is the mirror.
#include <lz4.h>

#include <msgpack.hpp>
#include <string>
#include <type_traits>

#include "common/protocol/codec.hpp"
#include "common/protocol/codec_wire.hpp"

namespace muster {
namespace {

struct Buffer {
  std::string& text;
  void write(const char* data, std::size_t size_bytes) { text.append(data, size_bytes); }
};

// Writes fields one after another; collects the payloads that travel as frames of their own.
class Writer {
 public:
  Writer(std::string& text, Frames& frames) : buffer_{text}, packer_(buffer_), frames_(frames) {}

  void array(std::size_t size) { packer_.pack_array(static_cast<std::uint32_t>(size)); }
  template <typename Number>
  requires std::is_arithmetic_v<Number>
  void put(Number number) { packer_.pack(number); }
  template <typename Enumeration>
  requires std::is_enum_v<Enumeration>
  void put(Enumeration word) {
    packer_.pack(static_cast<std::underlying_type_t<Enumeration>>(word));
  }
  void put(const std::string& text) { packer_.pack(text); }
  void put(std::chrono::milliseconds time) { packer_.pack_int64(time.count()); }
  void put(std::chrono::nanoseconds time) { packer_.pack_int64(time.count()); }

  template <typename Tag>
  void put(const RandomId<Tag>& id) {
    char bytes[16];
    wire::store_be64(bytes, id.high);
    wire::store_be64(bytes + 8, id.low);
    packer_.pack_bin(16);
    packer_.pack_bin_body(bytes, 16);
  }

  void put(const Payload& payload) {
    if (payload.blobs != 0) {
      packer_.pack_map(1);
      packer_.pack(payload.blobs);
    }
    const std::size_t size_bytes = payload.bytes.size();
    if (size_bytes >= limits::kLargePayloadBytes || payload.unpacked_bytes != 0) {
      if (payload.unpacked_bytes == 0) {
        packer_.pack_nil();
      } else {
        packer_.pack(payload.unpacked_bytes);
      }
      frames_.push_back(payload.bytes);
      return;
    }
    packer_.pack_bin(static_cast<std::uint32_t>(size_bytes));
    packer_.pack_bin_body(payload.bytes.text().data(), static_cast<std::uint32_t>(size_bytes));
  }
  void put(const Outcome& outcome) {
    if (outcome.status != OutcomeStatus::result) {
      array(2);
      put(outcome.status);
    }
    put(outcome.body);
  }
  void put(const Resources& wanted) { fields(wanted.milli_cpus, wanted.memory_bytes, wanted.gpus); }
  void put(const JobSpec& spec) {
    fields(spec.function.kind, spec.function.name, spec.function.python, spec.function.body,
           spec.timeout, spec.retries, spec.priority, spec.crash_budget, spec.max_running,
           spec.forward_output, spec.resources, spec.labels, spec.inline_results);
  }
  void put(const SequenceRange& range) { fields(range.first, range.count); }
  void put(const LeaseRange& range) { fields(range.first, range.count, range.attempt); }
  void put(const TaskRun& run) { fields(run.first, run.attempt, run.payloads); }
  void put(const OutcomeRun& run) { fields(run.first, run.attempt, run.outcomes); }
  void put(const message::HeldLeases& held) { fields(held.session, held.job, held.leases); }
  void put(const message::JobProgress& progress) { fields(progress.job, progress.next_sequence); }
  void put(const message::WorkerStatus& s) {
    fields(s.worker, s.node, s.executor, s.python, s.process_id, s.cores, s.slots, s.leases,
           s.stuck_slots, s.draining, s.paused, s.memory_bytes, s.gpus, s.labels, s.tasks_done,
           s.round_trip_us, s.silent_ms);
  }
  void put(const message::NodeStatus& s) {
    fields(s.name, s.address, s.via, s.state, s.step, s.detail, s.state_ms, s.bytes_in, s.bytes_out,
           s.round_trip_us, s.reconnects);
  }
  void put(const message::JobStatus& s) {
    fields(s.session, s.label, s.job, s.function, s.priority, s.queued, s.leased, s.done, s.failed,
           s.mean_us, s.waiting);
  }
  void put(const std::pair<std::string, std::uint64_t>& entry) {
    fields(entry.first, entry.second);
  }
  void put(const message::OutputLine& line) {
    fields(line.sequence, line.kind, line.level, line.name, line.text);
  }
  void put(const Bytes& value) { put(Payload{value}); }
  void put(const StoreLimits& limits) { fields(limits.bytes, limits.items, limits.age_ms); }
  void put(const StoreEntry& e) { fields(e.key, e.size_bytes, e.accessed_unix_ms, e.hits); }
  void put(const BlobName& name) { fields(name.id, name.size_bytes); }
  void put(const BlobSource& s) { fields(s.name, s.place, s.file, s.offset); }
  void put(const BlobAnswer& answer) { fields(answer.id, answer.state, answer.text); }
  template <typename Item>
  void put(const std::vector<Item>& items) {
    array(items.size());
    for (const Item& item : items) put(item);
  }

  template <typename... Fields>
  void fields(const Fields&... values) {
    array(sizeof...(Fields));
    (put(values), ...);
  }

 private:
  Buffer buffer_;
  msgpack::packer<Buffer> packer_;
  Frames& frames_;
};

// One overload per message: its type number and its fields in order.
class Encoder {
 public:
  Encoder(Writer& writer, std::uint8_t type) : writer_(writer), type_(type) {}

  void operator()(const message::HelloProducer& m) {
    all(m.protocol_version, m.software_version, m.session, m.label, m.resuming);
  }
  void operator()(const message::HelloWorker& m) {
    all(m.protocol_version, m.software_version, m.worker, m.node, m.executor, m.process_id, m.slots,
        m.cores, m.memory_bytes, m.gpus, m.labels, m.runs_commands, m.python, m.functions, m.held);
  }
  void operator()(const message::Welcome& m) {
    all(m.protocol_version, m.software_version, m.incarnation, m.heartbeat_interval,
        m.heartbeat_misses, m.credit_tasks, m.credit_bytes, m.pack, m.jobs, m.proof, m.blob_folders,
        m.blob_token, m.credit_blob_bytes, m.credit_memory_bytes);
  }
  void operator()(const message::Refuse& m) { all(m.code, m.text); }
  void operator()(const message::Unknown& m) { all(m.incarnation); }
  void operator()(const message::Heartbeat& m) { all(m.token, m.reply_wanted); }
  void operator()(const message::Goodbye&) { all(); }
  void operator()(const message::Job& m) { all(m.job, m.spec); }
  void operator()(const message::Submit& m) { all(m.job, m.first, m.payloads); }
  void operator()(const message::EndJob& m) { all(m.job); }
  void operator()(const message::Cancel& m) { all(m.job, m.ranges); }
  void operator()(const message::Outcomes& m) { all(m.job, m.runs); }
  void operator()(const message::AcknowledgeOutcomes& m) { all(m.job, m.ranges); }
  void operator()(const message::ResultsHeld& m) { all(m.job, m.job_bytes, m.session_bytes); }
  void operator()(const message::Credit& m) { all(m.tasks, m.bytes); }
  void operator()(const message::Notice& m) { all(m.job, m.text); }
  void operator()(const message::WorkerJob& m) { all(m.session, m.job, m.spec); }
  void operator()(const message::Tasks& m) { all(m.session, m.job, m.runs); }
  void operator()(const message::WorkerOutcomes& m) { all(m.session, m.job, m.busy, m.runs); }
  void operator()(const message::AcknowledgeLeases& m) { all(m.session, m.job, m.leases); }
  void operator()(const message::Recall& m) { all(m.session, m.job, m.leases); }
  void operator()(const message::Returned& m) { all(m.session, m.job, m.leases); }
  void operator()(const message::StopTasks& m) { all(m.session, m.job, m.leases); }
  void operator()(const message::ForgetJob& m) { all(m.session, m.job); }
  void operator()(const message::WorkerState& m) { all(m.stuck_slots, m.draining, m.paused); }
  void operator()(const message::StatusRequest&) { all(); }
  void operator()(const message::Status& m) {
    all(m.software_version, m.incarnation, m.uptime_ms, m.total_slots, m.sessions, m.workers,
        m.jobs, m.counters, m.nodes);
  }
  void operator()(const message::Output& m) { all(m.job, m.node, m.lines, m.dropped); }
  void operator()(const message::Pool& m) { all(m.total_slots, m.workers); }
  void operator()(const message::WorkerOutput& m) { all(m.session, m.job, m.lines, m.dropped); }
  void operator()(const message::NodesUp& m) { all(m.hosts, m.origin); }
  void operator()(const message::NodesDown& m) { all(m.names, m.end_broker); }
  void operator()(const message::NodesAnswer& m) { all(m.error, m.names); }
  void operator()(const message::HelloBulk& m) {
    all(m.protocol_version, m.software_version, m.worker);
  }
  void operator()(const message::BlobPut& m) { all(m.blobs); }
  void operator()(const message::BlobAnswers& m) { all(m.blobs); }
  void operator()(const message::BlobRelease& m) { all(m.blobs); }
  void operator()(const message::BlobWant& m) { all(m.blob, m.offset, m.bytes); }
  void operator()(const message::BlobChunk& m) { all(m.blob, m.offset, m.content); }
  void operator()(const message::BlobGone& m) { all(m.blob, m.reason); }
  void operator()(const message::WorkerBlobs& m) { all(m.shares, m.added, m.removed, m.waiting); }
  void operator()(const message::StoreRequest& m) {
    const StoreQuestion& q = m.question;
    all(m.token, m.claimant, q.operation, q.store, q.key, q.text, q.value, q.file, q.offset,
        q.size_bytes, q.version, q.may_block, q.limits);
  }
  void operator()(const message::StoreAnswer& m) {
    const StoreReply& r = m.reply;
    all(m.token, r.status, r.text, r.value, r.size_bytes, r.version, r.machine, r.file, r.folder,
        r.entries);
  }

 private:
  template <typename... Fields>
  void all(const Fields&... values) {
    writer_.fields(type_, values...);
  }
  Writer& writer_;
  std::uint8_t type_;
};

// Frame 0: the flag byte, then the msgpack array, lz4-packed when that makes it smaller.
Bytes finish_frame_zero(const std::string& plain, Packing packing) {
  const std::size_t size_bytes = plain.size() - 1;  // plain[0] is the flag byte
  if (packing == Packing::when_smaller && size_bytes >= limits::kPackThresholdBytes) {
    thread_local std::string packed;
    const int bound = LZ4_compressBound(static_cast<int>(size_bytes));
    packed.resize(wire::kPackedHeaderBytes + static_cast<std::size_t>(bound));
    const int packed_bytes =
        LZ4_compress_default(plain.data() + 1, packed.data() + wire::kPackedHeaderBytes,
                             static_cast<int>(size_bytes), bound);
    const std::size_t total = wire::kPackedHeaderBytes + static_cast<std::size_t>(packed_bytes);
    if (packed_bytes > 0 && total < plain.size()) {
      packed[0] = wire::kPackedFlag;
      wire::store_be32(packed.data() + 1, static_cast<std::uint32_t>(size_bytes));
      return Bytes::copy(packed.data(), total);
    }
  }
  return Bytes::copy(plain);
}

}  // namespace

Frames encode(const Message& message, Packing packing) {
  thread_local std::string plain;
  plain.assign(1, wire::kPlainFlag);
  Frames frames(1);
  Writer writer(plain, frames);
  Encoder encoder(writer, static_cast<std::uint8_t>(message.index() + 1));
  std::visit(encoder, message);
  frames[0] = finish_frame_zero(plain, packing);
  return frames;
}

}  // namespace muster
