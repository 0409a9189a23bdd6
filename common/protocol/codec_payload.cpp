// Bodies that travel inside payloads: lz4 packing, failures, command tasks and their results.
#include <lz4.h>

#include <algorithm>
#include <memory>
#include <msgpack.hpp>
#include <muster/pack.hpp>
#include <tuple>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"

namespace muster {
namespace {

constexpr std::size_t kSampleBytes = std::size_t{64} << 10;

// Whether the first bytes shrink by a tenth or more.
bool sample_shrinks(const Bytes& bytes) {
  const int size = static_cast<int>(std::min(bytes.size(), kSampleBytes));
  thread_local std::string scratch;
  scratch.resize(static_cast<std::size_t>(size) - static_cast<std::size_t>(size) / 10);
  return LZ4_compress_default(bytes.text().data(), scratch.data(), size,
                              static_cast<int>(scratch.size())) > 0;
}

template <typename... Fields>
std::optional<std::tuple<Fields...>> read_fields(const Bytes& body) {
  try {
    return unpack_arguments<Fields...>(body);
  } catch (const PackError&) {
    return std::nullopt;
  }
}

// In memory of exactly its size: one body often outlives all others that were made with it.
template <typename... Fields>
Bytes write_fields(const Fields&... fields) {
  return pack_value(std::tuple<const Fields&...>(fields...));
}

std::string cut(const std::string& text, std::size_t limit_bytes) {
  return text.size() <= limit_bytes ? text : text.substr(0, limit_bytes);
}

}  // namespace

Payload pack_payload(Bytes bytes, Packing packing) {
  if (packing == Packing::never || bytes.size() < limits::kLargePayloadBytes ||
      bytes.size() > limits::kMaxPayloadBytes || !sample_shrinks(bytes)) {
    return {std::move(bytes), 0};
  }
  const int size = static_cast<int>(bytes.size());
  const auto room = std::make_unique_for_overwrite<char[]>(bytes.size());
  const int packed = LZ4_compress_default(bytes.text().data(), room.get(), size, size - 1);
  if (packed <= 0) return {std::move(bytes), 0};  // it does not get smaller
  // The packed bytes may wait for long: they must not keep the room for the unpacked ones.
  return {Bytes::copy(room.get(), static_cast<std::size_t>(packed)),
          static_cast<std::uint32_t>(size)};
}

std::optional<Bytes> unpack_payload(const Payload& payload) {
  if (payload.blobs != 0) return unpack_payload(body_of(payload));
  const std::size_t size_bytes = payload.unpacked_bytes;
  if (size_bytes == 0) return payload.bytes;
  if (size_bytes > limits::kMaxPayloadBytes ||
      size_bytes / limits::kMaxExpansion > payload.bytes.size()) {
    return std::nullopt;
  }
  const std::shared_ptr<std::byte[]> buffer =
      std::make_shared_for_overwrite<std::byte[]>(size_bytes);
  const int written =
      LZ4_decompress_safe(payload.bytes.text().data(), reinterpret_cast<char*>(buffer.get()),
                          static_cast<int>(payload.bytes.size()), static_cast<int>(size_bytes));
  if (written < 0 || static_cast<std::size_t>(written) != size_bytes) return std::nullopt;
  return Bytes(buffer, {buffer.get(), size_bytes});
}

Bytes encode_failure(const Failure& failure) {
  return write_fields(cut(failure.kind, limits::kMaxNameBytes),
                      cut(failure.message, limits::kMaxTextBytes),
                      cut(failure.traceback, limits::kMaxTextBytes), failure.extra);
}

Failure decode_failure(const Bytes& body) {
  auto fields = read_fields<std::string, std::string, std::string, Bytes>(body);
  if (!fields) return {"unreadable", "the failure report of the worker cannot be read", "", {}};
  auto& [kind, message, traceback, extra] = *fields;
  return {std::move(kind), std::move(message), std::move(traceback), std::move(extra)};
}

Outcome failed(OutcomeStatus status, const Failure& failure) {
  return {status, {encode_failure(failure), 0}};
}

Bytes encode_command_task(const CommandTask& task) {
  return write_fields(task.argv, task.input, task.environment, task.directory,
                      task.output_limit_bytes, task.inputs, task.outputs);
}

std::optional<CommandTask> decode_command_task(const Bytes& payload) {
  auto fields =
      read_fields<std::vector<std::string>, Bytes, std::vector<std::pair<std::string, std::string>>,
                  std::string, std::uint64_t, std::vector<std::string>, std::vector<std::string>>(
          payload);
  if (!fields) return std::nullopt;
  auto& [argv, input, environment, directory, output_limit_bytes, inputs, outputs] = *fields;
  return CommandTask{std::move(argv),      std::move(input),   std::move(environment),
                     std::move(directory), output_limit_bytes, std::move(inputs),
                     std::move(outputs)};
}

Bytes encode_command_result(const CommandResult& result) {
  return write_fields(result.exit_status, result.signal, result.output, result.error_output,
                      result.truncated, result.started_unix_us, result.runtime_us, result.node,
                      result.outputs);
}

std::optional<CommandResult> decode_command_result(const Bytes& body) {
  auto fields = read_fields<std::int32_t, std::int32_t, Bytes, Bytes, bool, std::uint64_t,
                            std::uint64_t, std::string, std::vector<std::string>>(body);
  if (!fields) return std::nullopt;
  auto& [exit_status, signal, output, error_output, truncated, started, runtime, node, outputs] =
      *fields;
  return CommandResult{exit_status, signal,  std::move(output), std::move(error_output), truncated,
                       started,     runtime, std::move(node),   std::move(outputs)};
}

}  // namespace muster
