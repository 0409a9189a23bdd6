// Fuzz input as messages: what producers, workers and brokers say, in any order.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "common/protocol/message.hpp"
#include "tests/fuzz/input.hpp"

namespace muster::fuzz {

inline constexpr std::size_t kBigBytes = 5000;  // travels as a frame of its own

// Makes messages whose ids collide often, so that they meet each other's state.
class Speaker {
 public:
  explicit Speaker(Input& input) : input_(input) {}

  // What a producer or a worker says to a broker.
  Message to_broker() {
    switch (input_.below(24)) {
      case 0:
        return hello_producer();
      case 1:
        return hello_worker();
      case 2:
      case 3:
        return message::Job{job(), spec()};
      case 4:
      case 5:
      case 6:
        return message::Submit{job(), sequence(), payloads()};
      case 7:
        return message::EndJob{job()};
      case 8:
        return message::Cancel{job(), list<SequenceRange>([&] { return range(); })};
      case 9:
      case 10:
        return message::AcknowledgeOutcomes{job(), list<SequenceRange>([&] { return range(); })};
      case 11:
      case 12:
      case 13:
        return message::WorkerOutcomes{session(), job(), std::chrono::nanoseconds(time()), runs()};
      case 14:
        return message::Returned{session(), job(), leases()};
      case 15:
        return message::WorkerState{small(), input_.flag(), input_.byte() < 200 ? "" : name()};
      case 16:
        return message::Heartbeat{input_.number(), input_.flag()};
      case 17:
        return message::Goodbye{};
      case 18:
        return message::StatusRequest{};
      case 19:
        return message::WorkerOutput{session(), job(), lines(), input_.number()};
      case 20:
        return message::WorkerBlobs{input_.byte() > 200, list<BlobName>([&] { return blob(); }),
                                    list<BlobId>([&] { return blob().id; }), small()};
      case 21:
        return message::BlobPut{list<BlobSource>([&] {
          return BlobSource{blob(), static_cast<BlobPlace>(input_.below(4)), name(), 0};
        })};
      case 22:
        return message::BlobRelease{list<BlobId>([&] { return blob().id; })};
      default:
        if (input_.flag()) return foreign();
        return message::ResultsHeld{job(), input_.number(), input_.number()};
    }
  }

  // What a broker says to a producer.
  Message to_producer() {
    const std::uint32_t choice = input_.below(16);
    switch (choice) {
      case 0:
      case 1:
      case 2:
        return to_either(choice);
      case 3:
        return message::Credit{input_.number(), input_.number()};
      case 4:
        return message::Notice{job(), name()};
      case 5:
        return message::BlobAnswers{list<BlobAnswer>([&] {
          return BlobAnswer{blob().id, static_cast<BlobState>(input_.below(3)), name()};
        })};
      case 6:
        return message::NodesAnswer{input_.flag() ? "" : name(), {}};
      case 7:
        return message::Output{job(), name(), lines(), input_.number()};
      case 8:
        return message::Pool{small(), small()};
      case 9:
        return store_answer();
      case 10:
        return input_.byte() == 255 ? Message(message::Refuse{}) : Message(message::Status{});
      case 11:
        return to_broker();  // what only others say
      default:
        return message::Outcomes{job(), runs()};
    }
  }

  // What a broker says to a worker.
  Message to_worker() {
    const std::uint32_t choice = input_.below(16);
    switch (choice) {
      case 0:
      case 1:
      case 2:
        return to_either(choice);
      case 3:
      case 4:
        return message::WorkerJob{session(), job(), spec()};
      case 5:
        return message::Recall{session(), job(), leases()};
      case 6:
        return message::StopTasks{session(), job(), leases()};
      case 7:
        return message::ForgetJob{session(), job()};
      case 8:
      case 9:
        return message::AcknowledgeLeases{session(), job(), leases()};
      case 10:
        return input_.byte() == 255 ? Message(message::Refuse{}) : to_broker();
      default:
        return message::Tasks{session(), job(), task_runs()};
    }
  }

  // --- Their parts

  BlobName blob() { return {{3, 1 + input_.below(4)}, input_.number()}; }
  JobId job() { return JobId{input_.below(3)}; }
  std::string name() { return std::string(1, static_cast<char>('f' + input_.below(2))); }
  template <typename Item, typename Make>
  std::vector<Item> list(Make make) {
    std::vector<Item> items(input_.below(4));
    for (Item& item : items) item = make();
    return items;
  }
  Payload payload() {
    static const std::string kBig(kBigBytes, 'x');
    const std::uint8_t choice = input_.byte();
    if (choice > 240) return {Bytes::borrow(kBig), choice > 250 ? 100'000U : 0U};
    if (choice > 200) {
      std::vector<BlobName> names(1 + input_.below(3));
      for (BlobName& name : names) name = blob();
      return with_blobs(names, {Bytes::borrow("body"), 0});
    }
    return {Bytes::borrow(std::string_view(kBig).substr(0, choice % 4U)), 0};
  }
  std::vector<Payload> payloads() {
    std::vector<Payload> made(1 + input_.below(12));
    for (Payload& one : made) one = payload();
    return made;
  }
  Outcome outcome() { return {static_cast<OutcomeStatus>(input_.below(5)), payload()}; }
  std::vector<OutcomeRun> runs() {
    return list<OutcomeRun>([&] {
      OutcomeRun run{sequence(), attempt(), {}};
      run.outcomes.resize(1 + input_.below(4));
      for (Outcome& one : run.outcomes) one = outcome();
      return run;
    });
  }
  std::vector<TaskRun> task_runs() {
    return list<TaskRun>([&] { return TaskRun{sequence(), attempt(), payloads()}; });
  }
  JobSpec spec() {
    JobSpec spec;
    spec.function = {static_cast<FunctionKind>(input_.below(3)), name()};
    const bool is_python = spec.function.kind == FunctionKind::python;
    if (is_python != (input_.byte() == 255)) spec.function.python = name();
    if (is_python || input_.byte() > 220) spec.function.body = payload();
    spec.retries = input_.byte() == 255 ? UINT32_MAX : input_.below(3);
    spec.priority = input_.byte() == 255 ? INT32_MIN : static_cast<std::int32_t>(input_.below(2));
    spec.crash_budget = input_.byte() == 255 ? UINT32_MAX : 1 + input_.below(3);
    spec.max_running = input_.byte() < 128 ? 0 : 1 + input_.below(3);
    spec.forward_output = input_.flag();
    if (input_.flag()) spec.resources = resources();
    if (input_.byte() > 200) spec.labels = list<std::string>([&] { return name(); });
    return spec;
  }

 private:
  // What a broker says to producers and workers alike. `choice` is below 3.
  Message to_either(std::uint32_t choice) {
    if (choice == 0) return welcome();
    if (choice == 1) return message::Unknown{{1, input_.below(2)}};
    return message::Heartbeat{input_.below(8), input_.flag()};
  }
  message::Welcome welcome() {
    message::Welcome said;
    said.protocol_version = input_.byte() == 255 ? 1 : limits::kProtocolVersion;
    said.software_version = "0.1";
    said.incarnation = {1, 1 + input_.below(3)};
    said.heartbeat_interval = std::chrono::milliseconds(input_.number());
    said.heartbeat_misses = small();
    said.credit_tasks = input_.number();
    said.credit_bytes = input_.number() * kBigBytes;
    said.pack = input_.flag();
    said.jobs = list<message::JobProgress>([&] { return message::JobProgress{job(), sequence()}; });
    if (input_.flag()) said.blob_folders = {name(), name()};
    said.blob_token = name();
    said.credit_blob_bytes = input_.number();
    said.credit_memory_bytes = input_.number();
    return said;
  }
  message::StoreAnswer store_answer() {
    message::StoreAnswer answer;
    answer.token = input_.below(8);
    answer.reply.text = name();
    return answer;
  }
  message::HelloProducer hello_producer() {
    const std::uint32_t version =
        input_.byte() == 255 ? limits::kProtocolVersion + 1 : limits::kProtocolVersion;
    return {version, "0.1", session(), "fuzz", input_.flag()};
  }
  message::HelloWorker hello_worker() {
    message::HelloWorker hello;
    hello.software_version = "0.1";
    hello.worker = {7, 1 + input_.below(3)};
    hello.node = "node";
    hello.executor = "thread";
    hello.slots = input_.byte() == 255 ? limits::kMaxSlots : 1 + input_.below(4);
    hello.runs_commands = input_.flag();
    hello.cores = input_.byte() == 255 ? UINT32_MAX : input_.below(5);
    hello.memory_bytes = input_.byte() == 255 ? UINT64_MAX : input_.below(5);
    hello.gpus = input_.byte() == 255 ? UINT32_MAX : input_.below(3);
    hello.labels = list<std::string>([&] { return name(); });
    hello.python = python();
    hello.functions = list<std::string>([&] { return name(); });
    hello.held = list<message::HeldLeases>([&] {
      return message::HeldLeases{session(), job(), leases()};
    });
    return hello;
  }
  // What only a broker says.
  Message foreign() {
    switch (input_.below(6)) {
      case 0:
        return message::Welcome{1, "0.1", {1, 1}, {}, 5, 1, 1, false, {{job(), sequence()}}};
      case 1:
        return message::Tasks{session(), job(), {{sequence(), attempt(), payloads()}}};
      case 2:
        return message::Outcomes{job(), runs()};
      case 3:
        return message::StopTasks{session(), job(), leases()};
      case 4:
        return message::ForgetJob{session(), job()};
      default:
        return message::Unknown{{1, 1}};
    }
  }

  std::uint32_t small() { return static_cast<std::uint32_t>(input_.number()); }
  std::int64_t time() { return static_cast<std::int64_t>(input_.number() >> 1); }
  SessionId session() { return {9, 1 + input_.below(3)}; }
  TaskSequence sequence() {
    const std::uint64_t number = input_.number();
    return TaskSequence{number < std::uint64_t{1} << 62 ? number : number % 8};
  }
  Attempt attempt() { return Attempt{small()}; }
  std::string python() { return input_.flag() ? "" : name(); }
  std::vector<message::OutputLine> lines() {
    return list<message::OutputLine>([&] {
      return message::OutputLine{sequence(), static_cast<OutputKind>(input_.below(4)), small(),
                                 name(), name()};
    });
  }
  std::uint64_t count() { return 1 + input_.number() % 64; }
  SequenceRange range() {
    const TaskSequence first = sequence();
    const std::uint64_t rest = (std::uint64_t{1} << 62) - value(first);
    return {first, input_.byte() == 255 ? rest : std::min(rest, count())};
  }
  std::vector<LeaseRange> leases() {
    return list<LeaseRange>([&] { return LeaseRange{sequence(), count(), attempt()}; });
  }
  Resources resources() {
    Resources wanted{1000 * input_.below(4), input_.below(4), input_.below(3)};
    if (input_.byte() == 255) wanted = {UINT32_MAX, UINT64_MAX, UINT32_MAX};
    return wanted;
  }
  Input& input_;
};

// What the codec lets through of a message; nothing: the receiver would refuse it.
inline std::optional<Message> through_codec(const Message& message) {
  auto decoded = decode(encode(message, Packing::never));
  if (auto* made = std::get_if<Message>(&decoded)) return std::move(*made);
  return std::nullopt;
}

}  // namespace muster::fuzz
