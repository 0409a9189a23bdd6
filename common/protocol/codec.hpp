// The codec: messages to ZeroMQ frames and back. The only place that knows the wire form
// (docs/protocol.md, "Frames"). Pure: no I/O. Thread rule: every function may be called anywhere.
#pragma once

#include <muster/bytes.hpp>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

// Frame 0 first, then the large payloads in the order in which frame 0 mentions them.
using Frames = std::vector<Bytes>;

enum class Packing {
  never,         // the peer is on this machine: copying is faster than lz4
  when_smaller,  // the message leaves this machine
};

Frames encode(const Message& message, Packing packing);

struct DecodeError {
  std::string reason;
  message::RefuseCode code = message::RefuseCode::malformed;
};

// Checks every length, range and limit before memory is taken; never throws on any input.
// Payloads of the message share the frames' memory.
std::variant<Message, DecodeError> decode(std::span<const Bytes> frames);

// Whether a message with this frame 0 may be a HELLO of any kind. Looks at three bytes: false is
// certain, true is not.
bool may_be_greeting(std::span<const std::byte> frame);

// Packs a large payload with lz4 if a sample of it shrinks by a tenth or more.
Payload pack_payload(Bytes bytes, Packing packing);

// The payload's body, without the names of its blobs; nothing when it is packed and damaged.
std::optional<Bytes> unpack_payload(const Payload& payload);

// A Failure as an outcome's body, and back; `decode_failure` makes a Failure of any bytes.
Bytes encode_failure(const Failure& failure);
Failure decode_failure(const Bytes& body);
Outcome failed(OutcomeStatus status, const Failure& failure);

// A command task's payload and its outcome.
struct CommandTask {
  std::vector<std::string> argv;
  Bytes input;                                                   // its standard input
  std::vector<std::pair<std::string, std::string>> environment;  // added to the worker's own
  std::string directory;                                         // empty: the worker's own
  std::uint64_t output_limit_bytes = 0;                          // per stream; 0: the worker's
  // Files, by relative names. With any the command runs in a folder of its own, and `directory` is
  // empty. The payload's blobs are the inputs' contents, in order; the outcome's, the outputs'.
  std::vector<std::string> inputs = {};
  std::vector<std::string> outputs = {};
};
struct CommandResult {
  std::int32_t exit_status = 0;  // 0-255; -1 when a signal ended it
  std::int32_t signal = 0;
  Bytes output;
  Bytes error_output;
  bool truncated = false;             // output beyond the limit was dropped
  std::uint64_t started_unix_us = 0;  // wall clock of the node
  std::uint64_t runtime_us = 0;
  std::string node;
  std::vector<std::string> outputs = {};  // output files, one blob of the outcome each
};
Bytes encode_command_task(const CommandTask& task);
std::optional<CommandTask> decode_command_task(const Bytes& payload);
Bytes encode_command_result(const CommandResult& result);
std::optional<CommandResult> decode_command_result(const Bytes& body);

}  // namespace muster
