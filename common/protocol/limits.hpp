// Every limit of the protocol and of the processes, each with the sentence that derives it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace muster::limits {

// docs/protocol.md describes exactly this version; peers with another one are refused.
inline constexpr std::uint32_t kProtocolVersion = 4;

// A payload of this size or more travels as a ZeroMQ frame of its own: below it a copy into frame 0
// is cheaper than one more frame (a frame costs about as much as copying 4 KiB).
inline constexpr std::size_t kLargePayloadBytes = 4096;

// The largest payload or result: one frame that a 2-core machine still moves in seconds. Larger
// data belongs into files or (later) blobs.
inline constexpr std::size_t kMaxPayloadBytes = std::size_t{1} << 30;

// Frame 0: a full batch of small payloads (kBatchTasks x kLargePayloadBytes) and its headers.
inline constexpr std::size_t kMaxFrameZeroBytes = std::size_t{8} << 20;

// Buffers of this size or more inside Python arguments become blobs by themselves: below it a copy
// through a socket is cheaper than a file.
inline constexpr std::size_t kBlobBytes = std::size_t{64} << 10;

// Bodies of payloads beyond this size travel as a blob: a message never delays others by more than
// about a millisecond.
inline constexpr std::size_t kMaxBodyBytes = std::size_t{1} << 20;

// Buffers of results become blobs from this size on.
inline constexpr std::size_t kResultBlobBytes = std::size_t{256} << 10;

// Blobs of one payload: the columns of a wide frame.
inline constexpr std::size_t kMaxPayloadBlobs = 4096;

// A result with its blobs, unless the worker is told less (--max-result): the room on the node is
// the limit that counts, this one ends what grows by mistake.
inline constexpr std::uint64_t kMaxResultBytes = std::uint64_t{64} << 30;

// A name before a payload's body: 16 bytes of id and 8 of size.
inline constexpr std::size_t kBlobNameBytes = 24;

// Blobs travel to other machines in chunks of this size ...
inline constexpr std::size_t kBlobChunkBytes = std::size_t{512} << 10;
// ... so many ahead: a link of 100 MB/s with a round trip of 50 ms stays busy.
inline constexpr std::size_t kBlobChunksAhead = 12;

// Entries in one message about blobs.
inline constexpr std::size_t kMaxBlobEntries = 4096;

// Paths: what Linux takes.
inline constexpr std::size_t kMaxPathBytes = 4096;

// Results of a job that its program has not consumed, their blobs included: beyond it no task of
// the job starts, so that a slow consumer bounds what piles up.
inline constexpr std::uint64_t kHeldResultBytes = std::uint64_t{256} << 20;

// The same of all jobs of a session: each may hold what is left of it, so that those which nobody
// reads leave room for the others ...
inline constexpr std::uint64_t kHeldSessionBytes = std::uint64_t{1} << 30;
// ... and so much in any case, or a program could wait for ever for one job while another's results
// fill everything.
inline constexpr std::uint64_t kLeastHeldBytes = std::uint64_t{16} << 20;

// A producer says how much a job holds each time that it changed by this: well below the least of a
// job, so that what was not said yet stops nobody.
inline constexpr std::uint64_t kHeldStepBytes = std::uint64_t{4} << 20;

// A key: the path of a function and the digests of its code and its arguments.
inline constexpr std::size_t kMaxStoreKeyBytes = 2048;

// Entries in one answer; with their keys at the limit half of what frame 0 takes.
inline constexpr std::size_t kMaxStoreEntries = 2048;

// What waits at a broker of one session or worker, and what a value may be large.
inline constexpr std::size_t kMaxStoreWaits = 65'536;
inline constexpr std::uint64_t kMaxStoreValueBytes = std::uint64_t{1} << 40;

// A batch is cut at this many tasks: the cost per message is then under 1 % of the cost per task.
inline constexpr std::size_t kBatchTasks = 1024;

// ... or at this many payload bytes, so that one bulk sender never delays others by more than
// about a millisecond. A single larger payload is a batch of its own.
inline constexpr std::size_t kBatchBytes = std::size_t{1} << 20;

// Runs or ranges in one message: every task of a batch may be a run of its own.
inline constexpr std::size_t kMaxRuns = kBatchTasks;

// Frames of one message: frame 0 and every payload of a batch.
inline constexpr std::size_t kMaxFrames = kBatchTasks + 1;

// Names (functions, nodes, labels): fits any sensible name, bounds logs and tables.
inline constexpr std::size_t kMaxNameBytes = 512;

// Messages, tracebacks and stderr tails of a failure: enough for a deep Python traceback.
inline constexpr std::size_t kMaxTextBytes = 64 * 1024;

// Functions that one worker may announce, and leases it may report when it connects again.
inline constexpr std::size_t kMaxFunctions = 4096;
inline constexpr std::size_t kMaxReportedLeases = 65536;

// Leases in all of those reports together (a range says many in few bytes): slots and prefetch of
// the largest worker, with room for as many that are finished and not acknowledged.
inline constexpr std::size_t kMaxHeldLeases = 4 * kMaxReportedLeases;

// Jobs of one session that have not ended: WELCOME lists them all.
inline constexpr std::size_t kMaxJobs = 16'384;

// Rows in STATUS, of workers and of jobs: what a person or a dashboard can use, and at most a few
// MiB whatever the names.
inline constexpr std::size_t kMaxStatusRows = 2'000;

// Lines in one message of what tasks said: with names and texts at their limits still far below
// the limit of frame 0 (senders cut a line at kMaxLineBytes).
inline constexpr std::size_t kMaxOutputLines = 1024;
inline constexpr std::size_t kMaxLineBytes = 4096;

// lz4 cannot expand more than this; a frame that declares more is refused before any allocation.
inline constexpr std::size_t kMaxExpansion = 255;

// Frame 0 below this size is never packed: lz4 cannot win enough to pay for the call.
inline constexpr std::size_t kPackThresholdBytes = 512;

// Labels of a worker or a job: places, owners, hardware; more is a misuse.
inline constexpr std::size_t kMaxLabels = 64;

// A hosts file: ten thousand nodes with every key said.
inline constexpr std::size_t kMaxHostsBytes = std::size_t{4} << 20;

// The most leases a worker holds beyond its slots, in tasks and bytes: covers a 100 ms round trip
// at 80 k tasks/s, and two large payloads ahead.
inline constexpr std::uint32_t kMaxPrefetch = 8192;
inline constexpr std::size_t kMaxPrefetchBytes = std::size_t{32} << 20;

// The largest number of slots of one worker.
inline constexpr std::uint32_t kMaxSlots = 65536;

// The default credit of a session: tasks and bytes the broker holds for it.
inline constexpr std::uint64_t kCreditTasks = 1'000'000;
inline constexpr std::uint64_t kCreditBytes = std::uint64_t{1} << 30;

// Liveness: design.md, "Protocol rules", 6.
inline constexpr std::chrono::milliseconds kHeartbeatInterval{2000};
inline constexpr std::uint32_t kHeartbeatMisses = 5;

// How long acknowledgements wait for a message that goes the same way: far below a heartbeat, and
// long enough that a program which waits for each result before its next task never pays for them.
inline constexpr std::chrono::milliseconds kAcknowledgementWindow{20};

// Losses while running that a task survives before it ends as lost.
inline constexpr std::uint32_t kCrashBudget = 3;

}  // namespace muster::limits
