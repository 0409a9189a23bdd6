// One message of every kind with every field set, in the order of their type numbers.
#pragma once

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"

namespace muster::testing {

inline constexpr SessionId kSession{0x0102030405060708, 0x090a0b0c0d0e0f10};
inline constexpr WorkerId kWorker{0x1112131415161718, 0x191a1b1c1d1e1f20};
inline constexpr Incarnation kIncarnation{0x2122232425262728, 0x292a2b2c2d2e2f30};
inline constexpr BlobId kBlob{0x3132333435363738, 0x393a3b3c3d3e3f40};
inline constexpr TaskSequence kLastSequence{(std::uint64_t{1} << 62) - 1};
inline constexpr Attempt kLastAttempt{(std::uint32_t{1} << 31) - 1};

// A payload of `size_bytes` different-looking bytes.
inline Payload payload_of(std::size_t size_bytes) {
  std::string text(size_bytes, '\0');
  for (std::size_t i = 0; i < size_bytes; ++i) text[i] = static_cast<char>(i * 131 + i / 251);
  return {Bytes::copy(text), 0};
}
// A payload that lz4 has made smaller.
inline Payload packed_payload(std::size_t size_bytes) {
  return pack_payload(Bytes::copy(std::string(size_bytes, 'p')), Packing::when_smaller);
}

// Small, empty, packed and as large as a frame of its own: every form a payload has.
inline std::vector<Payload> payload_forms() {
  return {payload_of(3),
          payload_of(limits::kLargePayloadBytes),
          {},
          packed_payload(9000),
          payload_of(limits::kLargePayloadBytes - 1),
          with_blobs(std::vector<BlobName>{{kBlob, UINT64_MAX}}, {}),
          with_blobs(std::vector<BlobName>(200, {kBlob, 0}), packed_payload(9000))};
}

inline std::vector<OutcomeRun> outcome_runs() {
  const Failure failure{"exception", "no", "Traceback", Bytes::copy("extra")};
  OutcomeRun first{TaskSequence{0}, Attempt{1}, {}};
  for (const Payload& payload : payload_forms()) first.outcomes.push_back({{}, payload});
  OutcomeRun second{TaskSequence{value(kLastSequence) - 3}, kLastAttempt, {}};
  second.outcomes = {failed(OutcomeStatus::error, failure),
                     failed(OutcomeStatus::timed_out, failure),
                     failed(OutcomeStatus::cancelled, failure),
                     {OutcomeStatus::lost, payload_of(limits::kLargePayloadBytes)}};
  return {first, second};
}

inline JobSpec sample_spec() {
  return {{FunctionKind::python, "resize", "3.11", packed_payload(9000)},
          std::chrono::milliseconds(1500),
          2,
          -7,
          4,
          3,
          true,
          {1500, std::uint64_t{8} << 30, 1},
          {"gpu", "room 7"},
          true};
}

inline std::vector<LeaseRange> sample_leases() {
  return {{TaskSequence{5}, 2, Attempt{0}}, {kLastSequence, 1, kLastAttempt}};
}

inline message::HelloWorker sample_hello() {
  return {3,
          "0.1.0",
          kWorker,
          "node7",
          "process",
          4711,
          16,
          8,
          std::uint64_t{64} << 30,
          2,
          {"gpu", "room 7"},
          true,
          "3.11",
          {"square", "word_count"},
          {{kSession, JobId{77}, sample_leases()}}};
}

inline message::Status sample_status() {
  message::Status status{"0.1.0", to_hex(kIncarnation),       123456, 16, 2, {},
                         {},      {{"jobs", 3}, {"lost", 0}}, {}};
  status.workers.push_back({"w",
                            "node7",
                            "thread",
                            "3.11",
                            4711,
                            8,
                            16,
                            3,
                            1,
                            true,
                            "load",
                            std::uint64_t{64} << 30,
                            2,
                            {"gpu"},
                            99,
                            250,
                            12});
  status.nodes.push_back({"node7", "ada@node7:22", "libssh", "up", "serve", "", 5, 6, 7, 8, 9});
  status.jobs.push_back({"s", "label", 77, "square", -7, 1, 2, 3, 4, 5, "no worker"});
  return status;
}

inline std::vector<Message> sample_data_messages() {
  using namespace message;  // NOLINT: the table below is nothing but these names
  return {
      HelloBulk{3, "0.1.0", kWorker},
      BlobPut{{{{kBlob, UINT64_MAX}, BlobPlace::file, "/data/matrix.npy", 128},
               {{kBlob, 0}, BlobPlace::kept}}},
      BlobAnswers{{{kBlob, BlobState::refused, "no room"}, {kBlob, BlobState::here}}},
      BlobRelease{{kBlob, kBlob}},
      BlobWant{kBlob, UINT64_MAX, limits::kBlobChunkBytes},
      BlobChunk{kBlob, std::uint64_t{1} << 40, payload_of(limits::kBlobChunkBytes)},
      BlobGone{kBlob, "released"},
      WorkerBlobs{true, {{kBlob, 5}, {kBlob, UINT64_MAX}}, {kBlob}, 7},
      StoreRequest{1,
                   UINT64_MAX,
                   {StoreOperation::put, "workflow", "f/1", "{}", Bytes::borrow("value"), "file", 7,
                    1 << 20, 9, true, StoreLimits{1, 2, 3}}},
      StoreAnswer{UINT64_MAX,
                  {StoreStatus::hit,
                   "{}",
                   Bytes::copy(std::string(5000, 'v')),
                   5000,
                   9,
                   "machine",
                   "/file",
                   "/folder",
                   {{"f/1", 5000, UINT64_MAX, 3}, {"f/2", 0, 0, 0}}}},
      ResultsHeld{JobId{77}, std::uint64_t{1} << 28, UINT64_MAX},
  };
}

inline std::vector<Message> make_sample_messages() {
  using namespace message;  // NOLINT: the table below is nothing but these names
  const JobSpec spec = sample_spec();
  const std::vector<OutputLine> lines = {{TaskSequence{3}, OutputKind::output, 0, "", "hello"},
                                         {kLastSequence, OutputKind::log, 20, "root", "said"}};
  const std::vector<LeaseRange> leases = sample_leases();
  const std::vector<SequenceRange> ranges = {{TaskSequence{0}, 3}, {kLastSequence, 1}};
  const JobId job{77};
  return {
      HelloProducer{3, "0.1.0", kSession, "demo 4711", true},
      sample_hello(),
      Welcome{3,
              "0.1.0",
              kIncarnation,
              std::chrono::milliseconds(2000),
              5,
              1'000'000,
              std::uint64_t{1} << 40,
              true,
              {{job, TaskSequence{41}}},
              "proof",
              {"/dev/shm/muster-1/store", "/home/ada/.cache/muster/blobs/store"},
              "token",
              UINT64_MAX,
              std::uint64_t{1} << 40},
      Refuse{RefuseCode::identity, "one connection cannot be two workers"},
      Unknown{kIncarnation},
      Heartbeat{UINT64_MAX, true},
      Goodbye{},
      Job{job, spec},
      Submit{job, TaskSequence{9}, payload_forms()},
      EndJob{job},
      Cancel{job, ranges},
      Outcomes{job, outcome_runs()},
      AcknowledgeOutcomes{job, ranges},
      Credit{1000, 1 << 20},
      Notice{job, "no worker is connected"},
      WorkerJob{kSession, job, spec},
      Tasks{kSession, job, {{TaskSequence{9}, Attempt{0}, payload_forms()}}},
      WorkerOutcomes{kSession, job, std::chrono::nanoseconds(123'456'789), outcome_runs()},
      AcknowledgeLeases{kSession, job, leases},
      Recall{kSession, job, leases},
      Returned{kSession, job, leases},
      StopTasks{kSession, job, leases},
      ForgetJob{kSession, job},
      WorkerState{3, true, "the load of others"},
      StatusRequest{},
      sample_status(),
      Output{job, "node7", lines, 5},
      Pool{16, 2},
      WorkerOutput{kSession, job, lines, 5},
      NodesUp{"hosts = [\"ada@node7*4\"]", "hosts.toml"},
      NodesDown{{"node7"}, true},
      NodesAnswer{"hosts.toml:1:1: no hosts", {"node7"}},
  };
}

// One of each type, in their order.
inline const std::vector<Message>& sample_messages() {
  static const std::vector<Message> kMessages = [] {
    std::vector<Message> all = make_sample_messages();
    for (Message& message : sample_data_messages()) all.push_back(std::move(message));
    return all;
  }();
  return kMessages;
}

}  // namespace muster::testing
