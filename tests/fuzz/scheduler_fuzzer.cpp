// Bytes as a life of the broker: peers that say anything in any order, and time that passes. The
// scheduler must neither abort nor contradict itself, and what it sends must be readable.
#include "broker/scheduler.hpp"
#include "common/blob.hpp"
#include "common/check.hpp"
#include "common/codec.hpp"
#include "tests/fuzz/input.hpp"
#include "tests/support/blob_set.hpp"

namespace muster {
namespace {

using fuzz::Input;

constexpr std::uint32_t kPeers = 6;
constexpr std::size_t kMaxSteps = 400;
constexpr std::size_t kBigBytes = 5000;  // travels as a frame of its own

// Makes messages whose ids collide often, so that they meet each other's state.
class Speaker {
 public:
  explicit Speaker(Input& input) : input_(input) {}

  Message message() {
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
        return foreign();
    }
  }
  BlobName blob() { return {{3, 1 + input_.below(4)}, input_.number()}; }

 private:
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

  template <typename Item, typename Make>
  std::vector<Item> list(Make make) {
    std::vector<Item> items(input_.below(4));
    for (Item& item : items) item = make();
    return items;
  }
  std::uint32_t small() { return static_cast<std::uint32_t>(input_.number()); }
  std::int64_t time() { return static_cast<std::int64_t>(input_.number() >> 1); }
  SessionId session() { return {9, 1 + input_.below(3)}; }
  JobId job() { return JobId{input_.below(3)}; }
  TaskSequence sequence() {
    const std::uint64_t number = input_.number();
    return TaskSequence{number < std::uint64_t{1} << 62 ? number : number % 8};
  }
  Attempt attempt() { return Attempt{small()}; }
  std::string name() { return std::string(1, static_cast<char>('f' + input_.below(2))); }
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
  std::vector<OutcomeRun> runs() {
    return list<OutcomeRun>([&] {
      OutcomeRun run{sequence(), attempt(), {}};
      run.outcomes.resize(1 + input_.below(4));
      for (Outcome& outcome : run.outcomes) {
        outcome = {static_cast<OutcomeStatus>(input_.below(5)), payload()};
      }
      return run;
    });
  }
  Resources resources() {
    Resources wanted{1000 * input_.below(4), input_.below(4), input_.below(3)};
    if (input_.byte() == 255) wanted = {UINT32_MAX, UINT64_MAX, UINT32_MAX};
    return wanted;
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

  Input& input_;
};

SchedulerOptions options(BlobFiles* files) {
  SchedulerOptions options;
  options.blobs = files;
  options.credit_blob_bytes = std::uint64_t{1} << 40;
  options.incarnation = {1, 2};
  options.software_version = "0.1";
  options.credit_tasks = 64;
  options.credit_bytes = 4 * kBigBytes;
  return options;
}

class Broker {
 public:
  void step(Input& input) {
    const PeerId peer{input.below(kPeers)};
    const std::uint8_t kind = input.byte();
    if (kind < 200) {
      receive(peer, Speaker(input).message());
    } else if (kind < 240) {
      // Milliseconds to minutes: heartbeats, grace periods and the broker's own standstill.
      now_ += std::chrono::milliseconds(1U << input.below(18));
      if (now_ >= scheduler_.next_deadline()) scheduler_.tick(now_);
    } else if (kind < 245) {
      files_.add(Speaker(input).blob());  // as if a worker's file had been taken
    } else if (kind < 250) {
      scheduler_.disconnected(peer, now_);
    } else {
      scheduler_.malformed(peer, message::RefuseCode::malformed, "garbage", now_);
    }
    scheduler_.check_invariants();
    if (!input.flag()) return;
    for (const Outgoing& outgoing : scheduler_.take_outgoing(now_)) {
      CHECK(std::holds_alternative<Message>(decode(encode(outgoing.message, Packing::never))));
    }
    scheduler_.check_invariants();
  }

 private:
  // Only what the codec lets through reaches the scheduler.
  void receive(PeerId peer, const Message& message) {
    auto decoded = decode(encode(message, Packing::never));
    if (const auto* error = std::get_if<DecodeError>(&decoded)) {
      scheduler_.malformed(peer, error->code, error->reason, now_);
    } else {
      scheduler_.receive(peer, std::get<Message>(std::move(decoded)), now_);
    }
  }

  Time now_ = std::chrono::hours(1);
  testing::BlobSet files_;
  Scheduler scheduler_{options(&files_), now_};
};

}  // namespace
}  // namespace muster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  muster::fuzz::Input input(data, size);
  muster::Broker broker;
  for (std::size_t i = 0; i < muster::kMaxSteps && !input.empty(); ++i) broker.step(input);
  return 0;
}
