// What messages are made of: payloads, blobs, functions, outcomes, runs of tasks. Plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <muster/bytes.hpp>
#include <string>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/limits.hpp"

namespace muster {

// A task's argument bytes or an outcome's body; opaque to the broker, but for the names of the
// blobs that belong to it, which stand before it (blob.hpp reads and writes them). A payload of
// exactly one blob and an empty body is that blob's content.
struct Payload {
  Bytes bytes;                       // `blobs` names of kBlobNameBytes each, then the body
  std::uint32_t unpacked_bytes = 0;  // the body's size after lz4 unpacking; 0: it is not packed
  std::uint32_t blobs = 0;
  bool operator==(const Payload&) const = default;
};

// A blob is immutable: every copy of this name has these bytes.
struct BlobName {
  BlobId id;
  std::uint64_t size_bytes = 0;
  bool operator==(const BlobName&) const = default;
};

// Where the bytes of a blob that a producer announces are.
enum class BlobPlace : std::uint8_t {
  memory = 0,  // `file` in the incoming folder of the memory folder
  disk = 1,    // ... of the disk folder
  file = 2,    // `file` is a file of the user's, an absolute path, which stays where it is
  kept = 3,    // nowhere new: does the broker still have it?
};
struct BlobSource {
  BlobName name;
  BlobPlace place = BlobPlace::memory;
  std::string file = {};
  std::uint64_t offset = 0;  // place `file`: where in it
  bool operator==(const BlobSource&) const = default;
};
enum class BlobState : std::uint8_t { here = 0, missing = 1, refused = 2 };
struct BlobAnswer {
  BlobId id;
  BlobState state = BlobState::here;
  std::string text = {};  // refused: why, and what to do
};

enum class FunctionKind : std::uint8_t { native = 0, command = 1, python = 2 };

struct Function {
  FunctionKind kind = FunctionKind::native;
  std::string name;         // native: its registered name; else a label for people, may be empty
  std::string python = {};  // python: the interpreter that it needs, "3.11"; else empty
  Payload body = {};        // python: the pickled callable, which runs every payload; else empty
  bool operator==(const Function&) const = default;
};

// What one task takes of a node beside its slot. A task that needs more than one slot's share of
// the node (its cores or memory divided by its slots) takes as many slots as cover it.
struct Resources {
  std::uint32_t milli_cpus = 0;    // thousandths of a core; 0: one slot's share
  std::uint64_t memory_bytes = 0;  // limit and reservation; 0: no wish
  std::uint32_t gpus = 0;          // whole accelerators
  bool operator==(const Resources&) const = default;
};

// What all tasks of a job share; said once, in JOB.
struct JobSpec {
  Function function;
  std::chrono::milliseconds timeout{0};               // per task, from its start; 0: none
  std::uint32_t retries = 0;                          // more runs after an error or a timeout
  std::int32_t priority = 0;                          // higher runs first
  std::uint32_t crash_budget = limits::kCrashBudget;  // losses while running; at least 1
  std::uint32_t max_running = 0;  // leases at once, at most; 0: as many as the pool has slots
  bool forward_output = false;    // what tasks print and log goes to the producer
  Resources resources = {};
  std::vector<std::string> labels = {};  // only workers with all of these
  bool inline_results = false;           // the producer cannot fetch blobs
  bool operator==(const JobSpec&) const = default;
};

enum class OutcomeStatus : std::uint8_t {
  result = 0,  // body: the result's bytes
  error = 1,   // the others' body: a packed Failure (codec.hpp)
  timed_out = 2,
  cancelled = 3,
  lost = 4,
};

struct Outcome {
  OutcomeStatus status = OutcomeStatus::result;
  Payload body;
};

// Why a task has no result. `kind` is a short stable word: "exception", "bad_arguments",
// "unknown_function", "crashed", "exit", "result_too_large", "start_failed", "timed_out",
// "cancelled", "lost", "no_worker".
struct Failure {
  std::string kind;
  std::string message;
  std::string traceback;  // where it happened over there: a traceback or the last stderr lines
  Bytes extra;            // kind "exit": a packed CommandResult; python: the pickled exception
  bool operator==(const Failure&) const = default;
};

struct SequenceRange {
  TaskSequence first{};
  std::uint64_t count = 0;
  bool operator==(const SequenceRange&) const = default;
};

struct LeaseRange {  // contiguous tasks of one attempt
  TaskSequence first{};
  std::uint64_t count = 0;
  Attempt attempt{};
  bool operator==(const LeaseRange&) const = default;
};

struct TaskRun {
  TaskSequence first{};
  Attempt attempt{};
  std::vector<Payload> payloads;
};

struct OutcomeRun {
  TaskSequence first{};
  Attempt attempt{};
  std::vector<Outcome> outcomes;
};

enum class OutputKind : std::uint8_t { output = 0, error = 1, log = 2, warning = 3 };

}  // namespace muster
