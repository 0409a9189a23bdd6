// One thousand workers on one broker: how fast and how evenly they share a million no-ops.
//
// The broker is a process of its own. The workers are DEALER sockets of one thread of this program,
// with one slot each; they answer every TASKS at once. The producer library is the main thread.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <muster/producer.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "bench/muster_pool.hpp"
#include "common/net/transport.hpp"
#include "common/protocol/codec.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using muster::Message;
using muster::Packing;

constexpr std::size_t kPayloadBytes = 64;
// What a no-op claims to take; the broker learns from it how far to lease ahead.
constexpr std::chrono::nanoseconds kTaskDuration{200};

// One worker: a connection that gives every task an empty result at once.
class EchoWorker {
 public:
  EchoWorker(muster::TransportContext& context, const std::string& endpoint, std::uint64_t number)
      : dealer_(std::make_unique<muster::Dealer>(context, endpoint)) {
    muster::message::HelloWorker hello;
    hello.worker = {1, number};
    hello.node = "bench";
    hello.executor = "thread";
    hello.slots = 1;
    hello.functions = {"noop"};
    send(std::move(hello));
  }

  void serve() {
    while (const auto frames = dealer_->receive()) {
      auto decoded = muster::decode(*frames);
      if (!std::holds_alternative<Message>(decoded)) throw std::runtime_error("not decodable");
      const Message& message = std::get<Message>(decoded);
      if (const auto* tasks = std::get_if<muster::message::Tasks>(&message)) {
        run(*tasks);
      } else if (const auto* beat = std::get_if<muster::message::Heartbeat>(&message)) {
        if (beat->reply_wanted) send(muster::message::Heartbeat{beat->token, false});
      } else if (const auto* refusal = std::get_if<muster::message::Refuse>(&message)) {
        throw std::runtime_error(refusal->text);
      }
    }
  }

  [[nodiscard]] void* native_socket() const { return dealer_->native_socket(); }
  [[nodiscard]] std::uint64_t tasks() const { return tasks_; }

 private:
  void run(const muster::message::Tasks& tasks) {
    muster::message::WorkerOutcomes answer{tasks.session, tasks.job, {}, {}};
    std::uint64_t count = 0;
    for (const muster::TaskRun& run : tasks.runs) {
      count += run.payloads.size();
      answer.runs.push_back(
          {run.first, run.attempt, std::vector<muster::Outcome>(run.payloads.size())});
    }
    answer.busy = kTaskDuration * static_cast<std::int64_t>(count);
    tasks_ += count;
    send(std::move(answer));
  }
  void send(const Message& message) {
    if (dealer_->send(muster::encode(message, Packing::never)) != muster::SendResult::sent) {
      throw std::runtime_error("the broker does not read");
    }
  }

  std::unique_ptr<muster::Dealer> dealer_;
  std::uint64_t tasks_ = 0;
};

// The workers' thread, from construction to `stop`.
class Workers {
 public:
  Workers(const std::string& endpoint, std::uint32_t count)
      : endpoint_(endpoint), count_(count), thread_([this] { run(); }) {}
  ~Workers() {
    if (thread_.joinable()) stop();
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // The tasks of each worker; throws what ended the thread early.
  std::vector<std::uint64_t> stop() {
    stopping_ = true;
    thread_.join();
    if (!failure_.empty()) throw std::runtime_error(failure_);
    return tasks_;
  }

 private:
  void run() {
    try {
      serve();
    } catch (const std::exception& error) {
      failure_ = error.what();
    }
  }
  void serve() {
    muster::TransportContext context;
    std::vector<EchoWorker> workers;
    muster::Poller poller;
    for (std::uint32_t i = 0; i < count_; ++i) {
      workers.emplace_back(context, endpoint_, i + 1);
      poller.watch_socket(workers.back().native_socket());
    }
    while (!stopping_) {
      poller.wait(std::chrono::milliseconds(20));
      for (EchoWorker& worker : workers) worker.serve();
    }
    for (const EchoWorker& worker : workers) tasks_.push_back(worker.tasks());
  }

  const std::string endpoint_;
  const std::uint32_t count_;
  std::atomic<bool> stopping_{false};
  std::string failure_;
  std::vector<std::uint64_t> tasks_;
  std::thread thread_;
};

// Every socket takes two descriptors here and one in the broker, which inherits the limit.
void raise_descriptor_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void measure(std::uint32_t worker_count, std::uint64_t task_count) {
  raise_descriptor_limit();
  const muster::bench::MusterBroker broker;
  muster::Options options;
  options.endpoint = broker.endpoint();
  muster::Producer producer(options);
  Workers workers(broker.endpoint(), worker_count);
  if (!producer.wait_for_slots(worker_count, std::chrono::seconds(60))) {
    throw std::runtime_error("the workers have not connected after 60 s");
  }
  muster::JobOptions job;
  job.window = 131'072;
  muster::Stream stream = producer.stream({"noop"}, job, muster::Order::completion);
  constexpr std::array<char, kPayloadBytes> kPayload{};
  muster::BytesArena arena;
  const Clock::time_point start = Clock::now();
  while (stream.returned() < task_count) {
    while (stream.pushed() < task_count && stream.has_room()) {
      stream.push(arena.append(kPayload.data(), kPayload.size()));
    }
    const auto item = stream.next();
    if (!item || item->error) throw std::runtime_error("a no-op has no result");
  }
  const std::chrono::duration<double> wall = Clock::now() - start;
  const std::vector<std::uint64_t> tasks = workers.stop();
  const auto [least, most] = std::minmax_element(tasks.begin(), tasks.end());
  std::printf("{\"figure\":\"tasks_per_second\",\"value\":%.0f}\n",
              static_cast<double>(task_count) / wall.count());
  std::printf("{\"figure\":\"fairness\",\"value\":%.4f,\"least\":%ju,\"most\":%ju}\n",
              static_cast<double>(*least) / static_cast<double>(*most),
              static_cast<std::uintmax_t>(*least), static_cast<std::uintmax_t>(*most));
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t workers = 1'000;
  std::uint64_t tasks = 1'000'000;
  bool json = true;
  CLI::App app("One thousand workers share a million no-ops");
  app.add_option("--workers", workers, "how many")->check(CLI::Range(1U, 10'000U));
  app.add_option("--tasks", tasks, "how many")->check(CLI::PositiveNumber);
  app.add_flag("--json", json, "the only format there is");
  CLI11_PARSE(app, argc, argv);
  try {
    measure(workers, tasks);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "many_workers_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
