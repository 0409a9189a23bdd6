// The messages of docs/protocol.md as plain values. The codec (codec.hpp) is the only code that
// knows how they look on the wire.
#pragma once

#include <chrono>
#include <cstdint>
#include <muster/store.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/limits.hpp"
#include "common/protocol/message_parts.hpp"

namespace muster {
namespace message {

// --- Greeting -----------------------------------------------------------------------------------

struct HelloProducer {
  std::uint32_t protocol_version = limits::kProtocolVersion;
  std::string software_version;
  SessionId session;
  std::string label;  // shown in `muster status`: program and process id
  bool resuming =
      false;  // it has been welcomed by another incarnation: workers may hold its leases
};

struct HeldLeases {
  SessionId session;
  JobId job{};
  std::vector<LeaseRange> leases;
};

struct HelloWorker {
  std::uint32_t protocol_version = limits::kProtocolVersion;
  std::string software_version;
  WorkerId worker;
  std::string node;      // host name
  std::string executor;  // "thread" or "process"
  std::uint32_t process_id = 0;
  std::uint32_t slots = 0;
  std::uint32_t cores = 0;         // that this process may use
  std::uint64_t memory_bytes = 0;  // that its tasks may use together
  std::uint32_t gpus = 0;
  std::vector<std::string> labels;
  bool runs_commands = false;
  std::string python;                  // "3.11": runs python functions on it; empty: none
  std::vector<std::string> functions;  // native functions offered
  std::vector<HeldLeases> held;        // unstarted, running, or finished and not acknowledged
};

struct JobProgress {
  JobId job{};
  TaskSequence next_sequence{};  // the broker has every task before this one
};

struct Welcome {
  std::uint32_t protocol_version = limits::kProtocolVersion;
  std::string software_version;
  Incarnation incarnation;
  std::chrono::milliseconds heartbeat_interval{limits::kHeartbeatInterval};
  std::uint32_t heartbeat_misses = limits::kHeartbeatMisses;
  std::uint64_t credit_tasks = 0;  // producers: tasks without outcome at the broker, at most
  std::uint64_t credit_bytes = 0;  // producers: payload bytes of those, at most
  bool pack = false;               // pack what leaves this machine: the broker has remote peers
  std::vector<JobProgress> jobs;   // producers: what the broker knows of this session
  // Workers in a tunnel: what only the broker that started them knows. They obey nobody else.
  std::string proof = {};
  // The broker's blob folders, in memory and on disk. Who finds `blob_token` in the file "token" of
  // the first one is on the same machine and shares them. Empty: it has none.
  std::vector<std::string> blob_folders = {};
  std::string blob_token = {};
  // Producers: blob bytes that the session may have announced and not released, at most; and those
  // of them that may be in the memory folder.
  std::uint64_t credit_blob_bytes = 0;
  std::uint64_t credit_memory_bytes = 0;
};

// The first word of a worker's second connection, on which nothing but blobs travels.
struct HelloBulk {
  std::uint32_t protocol_version = limits::kProtocolVersion;
  std::string software_version;
  WorkerId worker;
};

enum class RefuseCode : std::uint8_t {
  version = 1,       // install matching versions
  malformed = 2,     // not decodable
  over_limit = 3,    // decodable, beyond a limit or the granted credit
  out_of_order = 4,  // legal message, illegal now
  identity = 5,      // the id belongs to somebody else
};
struct Refuse {
  RefuseCode code{};
  std::string text;
};

// "I do not know this connection: say HELLO."
struct Unknown {
  Incarnation incarnation;
};

struct Heartbeat {
  std::uint64_t token = 0;  // opaque; the sender's clock
  bool reply_wanted = false;
};

struct Goodbye {};

// --- Producer and broker ------------------------------------------------------------------------

struct Job {
  JobId job{};
  JobSpec spec;
};
struct Submit {
  JobId job{};
  TaskSequence first{};
  std::vector<Payload> payloads;
};
struct EndJob {
  JobId job{};
};
struct Cancel {
  JobId job{};
  std::vector<SequenceRange> ranges;  // empty: every task of the job
};
struct Outcomes {
  JobId job{};
  std::vector<OutcomeRun> runs;  // `attempt` says which lease made it
};
struct AcknowledgeOutcomes {
  JobId job{};
  std::vector<SequenceRange> ranges;
};
struct ResultsHeld {  // what the program has received and not consumed; blobs do not count
  JobId job{};
  std::uint64_t job_bytes = 0;
  std::uint64_t session_bytes = 0;  // of all its jobs, also those that have ended
};
struct Credit {
  std::uint64_t tasks = 0;
  std::uint64_t bytes = 0;
};
struct Notice {  // why a job waits; for people
  JobId job{};
  std::string text;
};
// One line that a task said.
struct OutputLine {
  TaskSequence sequence{};
  OutputKind kind = OutputKind::output;
  std::uint32_t level = 0;  // log: Python's level numbers (20 is INFO); else 0
  std::string name;         // log: the logger's; warning: its category; else empty
  std::string text;         // without the line break
};
struct Output {  // what tasks said; may be lost, never repeated
  JobId job{};
  std::string node;
  std::vector<OutputLine> lines;
  std::uint64_t dropped = 0;  // lines left out before these: too many of them
};
struct Pool {  // after WELCOME, and when it changes
  std::uint32_t total_slots = 0;
  std::uint32_t workers = 0;
  bool operator==(const Pool&) const = default;
};

// --- Broker and worker --------------------------------------------------------------------------

struct WorkerJob {
  SessionId session;
  JobId job{};
  JobSpec spec;
};
struct Tasks {
  SessionId session;
  JobId job{};
  std::vector<TaskRun> runs;
};
struct WorkerOutcomes {
  SessionId session;
  JobId job{};
  std::chrono::nanoseconds busy{0};  // execution time of these tasks, summed
  std::vector<OutcomeRun> runs;
};
struct AcknowledgeLeases {
  SessionId session;
  JobId job{};
  std::vector<LeaseRange> leases;
};
struct Recall {  // give back what has not started
  SessionId session;
  JobId job{};
  std::vector<LeaseRange> leases;
};
struct Returned {  // these leases had not started and will not
  SessionId session;
  JobId job{};
  std::vector<LeaseRange> leases;
};
struct StopTasks {  // end these leases, running or not; each still gets its outcome
  SessionId session;
  JobId job{};
  std::vector<LeaseRange> leases;
};
struct ForgetJob {
  SessionId session;
  JobId job{};
};
struct WorkerState {
  std::uint32_t stuck_slots = 0;  // slots held by tasks that timed out or were stopped
  bool draining = false;          // no more leases, please
  std::string paused = {};        // why it takes no leases for a while; empty: it takes them
};
struct WorkerOutput {  // what tasks said, in order; not acknowledged
  SessionId session;
  JobId job{};
  std::vector<OutputLine> lines;
  std::uint64_t dropped = 0;
};

// --- Status -------------------------------------------------------------------------------------

struct StatusRequest {};

struct NodeStatus {  // a machine that the broker reaches by ssh, or waits for
  std::string name;
  std::string address;  // user@host:port
  std::string via;      // "libssh" or "openssh"
  std::string state;    // "connecting", "preparing", "up", "waiting", "failed" or "ending"
  std::string step;     // the one that goes on or failed: "resolve", "connect", "host key", ...
  std::string detail;   // progress of the step, or the last error and what to do
  std::uint64_t state_ms = 0;  // how long it has been in this state
  std::uint64_t bytes_in = 0;  // through the tunnel, from the node
  std::uint64_t bytes_out = 0;
  std::uint64_t round_trip_us = 0;
  std::uint64_t reconnects = 0;
};
struct WorkerStatus {
  std::string worker;
  std::string node;
  std::string executor;
  std::string python;
  std::uint32_t process_id = 0;
  std::uint32_t cores = 0;
  std::uint32_t slots = 0;
  std::uint32_t leases = 0;  // held, started or not
  std::uint32_t stuck_slots = 0;
  bool draining = false;
  std::string paused;
  std::uint64_t memory_bytes = 0;
  std::uint32_t gpus = 0;
  std::vector<std::string> labels;
  std::uint64_t tasks_done = 0;
  std::uint64_t round_trip_us = 0;
  std::uint64_t silent_ms = 0;  // since the last message
};
struct JobStatus {
  std::string session;
  std::string label;
  std::uint32_t job = 0;
  std::string function;
  std::int32_t priority = 0;
  std::uint64_t queued = 0;
  std::uint64_t leased = 0;
  std::uint64_t done = 0;
  std::uint64_t failed = 0;
  std::uint64_t mean_us = 0;  // learned duration of a task
  std::string waiting;        // why queued tasks wait; empty: they do not
};
struct Status {
  std::string software_version;
  std::string incarnation;
  std::uint64_t uptime_ms = 0;
  std::uint32_t total_slots = 0;
  std::uint32_t sessions = 0;
  std::vector<WorkerStatus> workers;
  std::vector<JobStatus> jobs;
  std::vector<std::pair<std::string, std::uint64_t>> counters;
  std::vector<NodeStatus> nodes;
};

// --- Nodes that the broker reaches by ssh -------------------------------------------------------

// Brings up the hosts that a hosts file names (docs/hosts.md); those that are up already stay as
// they are. NODES_ANSWER.
struct NodesUp {
  std::string hosts;   // TOML
  std::string origin;  // the file's name, for error messages
};
struct NodesDown {                 // NODES_ANSWER, and STATUS shows how they end
  std::vector<std::string> names;  // empty: all
  bool end_broker = false;         // when they are gone
};
struct NodesAnswer {
  std::string error;               // empty: accepted; else nothing was done
  std::vector<std::string> names;  // of the nodes in question
};

// --- Blobs --------------------------------------------------------------------------------------

struct BlobPut {  // keeps these for the session until it releases them; BLOB_ANSWER
  std::vector<BlobSource> blobs;
};
struct BlobAnswers {
  std::vector<BlobAnswer> blobs;
};
struct BlobRelease {  // also of blobs that came with outcomes
  std::vector<BlobId> blobs;
};
struct BlobWant {  // on a bulk connection, either way: BLOB_CHUNK or BLOB_GONE
  BlobId blob;
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;  // at most limits::kBlobChunkBytes
};
struct BlobChunk {
  BlobId blob;
  std::uint64_t offset = 0;
  Payload content;  // without blobs of its own
};
struct BlobGone {
  BlobId blob;
  std::string reason;
};
struct WorkerBlobs {    // what changed since the last one
  bool shares = false;  // it uses the broker's folders: it has what the broker has
  std::vector<BlobName> added;
  std::vector<BlobId> removed;
  std::uint32_t waiting = 0;  // leases that it holds and that wait for blobs
};

// --- Stores of computed values ------------------------------------------------------------------

struct StoreRequest {  // STORE_ANSWER with the same token, unless `leave`
  std::uint64_t token = 0;
  std::uint64_t claimant = 0;  // who in that session or worker claims: a thread, a task
  StoreQuestion question;
};
struct StoreAnswer {
  std::uint64_t token = 0;
  StoreReply reply;
};

}  // namespace message

using Message = std::variant<
    message::HelloProducer, message::HelloWorker, message::Welcome, message::Refuse,
    message::Unknown, message::Heartbeat, message::Goodbye, message::Job, message::Submit,
    message::EndJob, message::Cancel, message::Outcomes, message::AcknowledgeOutcomes,
    message::Credit, message::Notice, message::WorkerJob, message::Tasks, message::WorkerOutcomes,
    message::AcknowledgeLeases, message::Recall, message::Returned, message::StopTasks,
    message::ForgetJob, message::WorkerState, message::StatusRequest, message::Status,
    message::Output, message::Pool, message::WorkerOutput, message::NodesUp, message::NodesDown,
    message::NodesAnswer, message::HelloBulk, message::BlobPut, message::BlobAnswers,
    message::BlobRelease, message::BlobWant, message::BlobChunk, message::BlobGone,
    message::WorkerBlobs, message::StoreRequest, message::StoreAnswer, message::ResultsHeld>;

// The protocol's name of a message ("SUBMIT"), for logs and errors.
const char* name_of(const Message& message);

// A message and whom it goes to; what every pure core returns.
struct Outgoing {
  PeerId peer{};
  Message message;
};

}  // namespace muster
