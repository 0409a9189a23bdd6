// Reads the fields of messages out of msgpack arrays, for input that may be hostile. Private to the
// codec's sources.
#pragma once

#include <chrono>
#include <limits>
#include <msgpack.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "common/protocol/codec_wire.hpp"

namespace muster::wire {

using message::RefuseCode;

// No sequence reaches it: adding a count to one cannot overflow.
inline constexpr std::uint64_t kSequenceEnd = std::uint64_t{1} << 62;

// Leaves `decode` from any depth; never leaves the codec.
struct Fault {
  std::string reason;
  RefuseCode code = RefuseCode::malformed;
};

// Reads the fields of one msgpack array one after another and checks each.
class Reader {
 public:
  Reader(const msgpack::object& object, const Bytes& frame_zero, std::span<const Bytes> large,
         std::size_t& large_used)
      : frame_zero_(frame_zero), large_(large), large_used_(large_used) {
    if (object.type != msgpack::type::ARRAY) throw Fault{"expected an array"};
    items_ = {object.via.array.ptr, object.via.array.size};
  }

  std::size_t size() const { return items_.size(); }
  bool done() const { return position_ == items_.size(); }

  const msgpack::object& next() {
    if (done()) throw Fault{"too few fields"};
    return items_[position_++];
  }
  void finish() const {
    if (!done()) throw Fault{"too many fields"};
  }

  template <typename Number>
  requires std::is_integral_v<Number>
  void get(Number& number) {
    const msgpack::object& object = next();
    if constexpr (std::is_same_v<Number, bool>) {
      if (object.type != msgpack::type::BOOLEAN) throw Fault{"expected a boolean"};
      number = object.via.boolean;
    } else {
      number = integer<Number>(object);
    }
  }
  template <typename Enumeration>
  requires std::is_enum_v<Enumeration>
  void get(Enumeration& word) {
    word = static_cast<Enumeration>(integer<std::underlying_type_t<Enumeration>>(next()));
  }
  // A word of a closed set: `last` is the greatest legal value.
  template <typename Enumeration>
  void get(Enumeration& word, Enumeration last) {
    get(word);
    if (word > last) throw Fault{"a code outside its range"};
  }
  void get(std::string& text, std::size_t limit_bytes) {
    const msgpack::object& object = next();
    if (object.type != msgpack::type::STR) throw Fault{"expected a text"};
    if (object.via.str.size > limit_bytes) {
      throw Fault{"a text over its limit", RefuseCode::over_limit};
    }
    text.assign(object.via.str.ptr, object.via.str.size);
  }
  void get(std::string& text) { get(text, limits::kMaxNameBytes); }
  void get(std::chrono::milliseconds& time) {
    constexpr std::int64_t kCentury = std::int64_t{100} * 366 * 24 * 3600 * 1000;
    const auto count = integer<std::int64_t>(next());
    if (count < 0 || count > kCentury) throw Fault{"a time outside its range"};
    time = std::chrono::milliseconds(count);
  }
  void get(std::chrono::nanoseconds& time) {
    const auto count = integer<std::int64_t>(next());
    if (count < 0) throw Fault{"a negative time"};
    time = std::chrono::nanoseconds(count);
  }
  template <typename Tag>
  void get(RandomId<Tag>& id) {
    const msgpack::object& object = next();
    if (object.type != msgpack::type::BIN || object.via.bin.size != 16) {
      throw Fault{"expected an id of 16 bytes"};
    }
    id = {wire::load_be64(object.via.bin.ptr), wire::load_be64(object.via.bin.ptr + 8)};
    if (id.is_zero()) throw Fault{"an id of zeros"};
  }
  void get(Payload& payload) { payload_from(next(), payload); }
  void get(Outcome& outcome) {
    const msgpack::object& object = next();
    if (object.type != msgpack::type::ARRAY) {
      payload_from(object, outcome.body);
      return;
    }
    Reader pair = inner(object);
    pair.get(outcome.status, OutcomeStatus::lost);
    if (outcome.status == OutcomeStatus::result) throw Fault{"a result in the form of a failure"};
    pair.get(outcome.body);
    pair.finish();
  }
  void get(Function& function) {
    get(function.kind, FunctionKind::python);
    get(function.name);
    get(function.python);
    get(function.body);
  }
  void get(Resources& wanted) {
    Reader r = inner(next());
    r.each(wanted.milli_cpus, wanted.memory_bytes, wanted.gpus);
  }
  void get(JobSpec& spec) {
    Reader r = inner(next());
    r.get(spec.function);
    r.get(spec.timeout);
    r.get(spec.retries);
    r.get(spec.priority);
    r.get(spec.crash_budget);
    if (spec.crash_budget == 0) throw Fault{"a crash budget of zero"};
    r.get(spec.max_running);
    r.get(spec.forward_output);
    r.get(spec.resources);
    r.get(spec.labels, limits::kMaxLabels);
    r.get(spec.inline_results);
    r.finish();
  }
  void get(SequenceRange& range) {
    Reader r = inner(next());
    r.get(range.first);
    r.get(range.count);
    r.finish();
    check_run(range.first, range.count);
  }
  void get(LeaseRange& range) {
    Reader r = inner(next());
    r.get(range.first);
    r.get(range.count);
    r.get(range.attempt);
    r.finish();
    check_run(range.first, range.count);
    check_attempt(range.attempt);
  }
  void get(TaskRun& run) {
    Reader r = inner(next());
    r.get(run.first);
    r.get(run.attempt);
    r.get(run.payloads, limits::kBatchTasks);
    r.finish();
    check_run(run.first, run.payloads.size());
    check_attempt(run.attempt);
  }
  void get(OutcomeRun& run) {
    Reader r = inner(next());
    r.get(run.first);
    r.get(run.attempt);
    r.get(run.outcomes, limits::kBatchTasks);
    r.finish();
    check_run(run.first, run.outcomes.size());
    check_attempt(run.attempt);
  }
  void get(message::HeldLeases& held) {
    Reader r = inner(next());
    r.get(held.session);
    r.get(held.job);
    r.get(held.leases, limits::kMaxReportedLeases);
    r.finish();
  }
  void get(message::JobProgress& progress) {
    Reader r = inner(next());
    r.get(progress.job);
    r.get(progress.next_sequence);
    r.finish();
  }
  void get(message::WorkerStatus& s) {
    Reader r = inner(next());
    r.each(s.worker, s.node, s.executor, s.python, s.process_id, s.cores, s.slots, s.leases,
           s.stuck_slots, s.draining, s.paused, s.memory_bytes, s.gpus, s.labels, s.tasks_done,
           s.round_trip_us, s.silent_ms);
  }
  void get(message::NodeStatus& s) {
    Reader r = inner(next());
    for (std::string* name : {&s.name, &s.address, &s.via, &s.state, &s.step}) r.get(*name);
    r.get(s.detail, limits::kMaxTextBytes);
    for (std::uint64_t* count :
         {&s.state_ms, &s.bytes_in, &s.bytes_out, &s.round_trip_us, &s.reconnects}) {
      r.get(*count);
    }
    r.finish();
  }
  void get(message::JobStatus& s) {
    Reader r = inner(next());
    r.each(s.session, s.label, s.job, s.function, s.priority, s.queued, s.leased, s.done, s.failed,
           s.mean_us, s.waiting);
  }
  void get(std::pair<std::string, std::uint64_t>& entry) {
    Reader r = inner(next());
    r.each(entry.first, entry.second);
  }
  void get(message::OutputLine& line) {
    Reader r = inner(next());
    r.get(line.sequence);
    r.get(line.kind, OutputKind::warning);
    r.get(line.level);
    r.get(line.name);
    r.get(line.text, limits::kMaxTextBytes);
    r.finish();
    check_run(line.sequence, 1);
  }
  // A payload of neither blobs nor packing.
  void get(Bytes& value) {
    Payload payload;
    get(payload);
    if (payload.blobs != 0 || payload.unpacked_bytes != 0) throw Fault{"expected plain bytes"};
    value = std::move(payload.bytes);
  }
  void get(StoreLimits& limits) {
    Reader r = inner(next());
    r.each(limits.bytes, limits.items, limits.age_ms);
  }
  void get(StoreEntry& entry) {
    Reader r = inner(next());
    r.get(entry.key, limits::kMaxStoreKeyBytes);
    r.get(entry.size_bytes);
    r.get(entry.accessed_unix_ms);
    r.get(entry.hits);
    r.finish();
  }
  void get(BlobName& name) {
    Reader r = inner(next());
    r.each(name.id, name.size_bytes);
  }
  void get(BlobSource& source) {
    Reader r = inner(next());
    r.get(source.name);
    r.get(source.place, BlobPlace::kept);
    r.get(source.file, limits::kMaxPathBytes);
    r.get(source.offset);
    r.finish();
  }
  void get(BlobAnswer& answer) {
    Reader r = inner(next());
    r.get(answer.id);
    r.get(answer.state, BlobState::refused);
    r.get(answer.text, limits::kMaxTextBytes);
    r.finish();
  }
  void get_paths(std::vector<std::string>& paths) {
    Reader r = inner(next());
    if (r.size() > 2) throw Fault{"more than two folders", RefuseCode::over_limit};
    paths.resize(r.size());
    for (std::string& path : paths) r.get(path, limits::kMaxPathBytes);
  }
  template <typename Item>
  void get(std::vector<Item>& items, std::size_t limit) {
    Reader r = inner(next());
    if (r.size() > limit) throw Fault{"a list over its limit", RefuseCode::over_limit};
    items.resize(r.size());
    for (Item& item : items) r.get(item);
  }
  template <typename Item>
  void get(std::vector<Item>& items) {
    get(items, limits::kMaxReportedLeases);
  }

  template <typename... Fields>
  void each(Fields&... fields) {
    (get(fields), ...);
    finish();
  }

  // A run may neither be empty nor pass the greatest sequence.
  static void check_run(TaskSequence first, std::uint64_t count) {
    if (count == 0) throw Fault{"an empty run"};
    if (value(first) >= kSequenceEnd || count > kSequenceEnd - value(first)) {
      throw Fault{"a sequence outside its range"};
    }
  }

 private:
  Reader inner(const msgpack::object& object) const {
    return {object, frame_zero_, large_, large_used_};
  }

  template <typename Number>
  static Number integer(const msgpack::object& object) {
    if (object.type == msgpack::type::POSITIVE_INTEGER) {
      if (object.via.u64 <= static_cast<std::uint64_t>(std::numeric_limits<Number>::max())) {
        return static_cast<Number>(object.via.u64);
      }
    } else if (object.type == msgpack::type::NEGATIVE_INTEGER && std::is_signed_v<Number>) {
      if (object.via.i64 >= static_cast<std::int64_t>(std::numeric_limits<Number>::min())) {
        return static_cast<Number>(object.via.i64);
      }
    }
    throw Fault{"expected an integer in range"};
  }

  // Counting on from it cannot overflow.
  static void check_attempt(Attempt attempt) {
    if (value(attempt) >= std::uint32_t{1} << 31) throw Fault{"an attempt outside its range"};
  }

  void payload_from(const msgpack::object& object, Payload& payload) {
    if (object.type != msgpack::type::MAP) {
      bytes_from(object, payload);
      return;
    }
    if (object.via.map.size != 1) throw Fault{"expected a payload"};
    payload.blobs = integer<std::uint32_t>(object.via.map.ptr[0].key);
    if (payload.blobs == 0) throw Fault{"a payload with no blobs in the form of one with some"};
    if (payload.blobs > limits::kMaxPayloadBlobs) {
      throw Fault{"a payload of too many blobs", RefuseCode::over_limit};
    }
    bytes_from(object.via.map.ptr[0].val, payload);
    if (payload.bytes.size() < payload.blobs * limits::kBlobNameBytes) {
      throw Fault{"a payload without the names of its blobs"};
    }
    for (std::uint32_t i = 0; i < payload.blobs; ++i) {
      if (blob_at(payload, i).id.is_zero()) throw Fault{"an id of zeros"};
    }
  }

  void bytes_from(const msgpack::object& object, Payload& payload) {
    if (object.type == msgpack::type::BIN) {
      const auto* begin = reinterpret_cast<const std::byte*>(object.via.bin.ptr);
      payload.bytes = {frame_zero_.owner(), {begin, object.via.bin.size}};
      return;
    }
    if (object.type == msgpack::type::POSITIVE_INTEGER) {
      payload.unpacked_bytes = integer<std::uint32_t>(object);
      if (payload.unpacked_bytes == 0) throw Fault{"a packed payload of no bytes"};
      if (payload.unpacked_bytes > limits::kMaxPayloadBytes) {
        throw Fault{"a payload over the limit", RefuseCode::over_limit};
      }
    } else if (object.type != msgpack::type::NIL) {
      throw Fault{"expected a payload"};
    }
    if (large_used_ == large_.size()) throw Fault{"a payload frame is missing"};
    payload.bytes = large_[large_used_++];
    const std::size_t size_bytes = payload.bytes.size();
    if (size_bytes > limits::kMaxPayloadBytes) {
      throw Fault{"a payload over the limit", RefuseCode::over_limit};
    }
    if (payload.unpacked_bytes / limits::kMaxExpansion > size_bytes) {
      throw Fault{"a packed payload declares more than lz4 can hold"};
    }
  }

  const Bytes& frame_zero_;
  std::span<const Bytes> large_;
  std::size_t& large_used_;
  std::span<const msgpack::object> items_;
  std::size_t position_ = 0;
};

}  // namespace muster::wire
