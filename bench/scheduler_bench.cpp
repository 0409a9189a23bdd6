// What one task costs the broker's scheduler, by the number of queued tasks and of workers, what a
// queued task weighs, and what a turn costs while jobs wait of which none fits a slot that is idle.
// One process without sockets: this file plays producer and workers.
//
// The clock runs while the scheduler has a message, while it fills its output and while that output
// is destroyed. Making the messages stands for the codec and is left out. Time is the thread's
// CPU time, because the machine may be shared; what reading that clock takes, a system call, is
// measured and subtracted. Figures are medians over several windows.
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "broker/scheduling/scheduler.hpp"

namespace {

using namespace std::chrono_literals;
using muster::Message;
using muster::PeerId;
using muster::TaskSequence;

constexpr std::size_t kPayloadBytes = 64;
constexpr std::size_t kPackedBytes = kPayloadBytes + 2;  // with its msgpack header
constexpr std::uint32_t kSlots = 2;
constexpr PeerId kProducer{1};
constexpr std::uint64_t kFirstWorker = 2;
constexpr muster::JobId kJob{1};
constexpr std::uint64_t kMemoryBytes = std::uint64_t{1} << 40;
constexpr muster::SessionId kSession{1, 1};
constexpr int kWindows = 9;
// By the workers' claim: the prefetch that covers the broker's batching is then 100 tasks.
constexpr std::chrono::nanoseconds kTaskDuration = 160us;
constexpr std::uint64_t kOutcomesPerMessage = 50;
constexpr std::chrono::nanoseconds kLongTask = 100s;  // none is leased ahead

std::chrono::nanoseconds cpu_now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// The time that a start and a stop with nothing between them seem to take.
std::chrono::nanoseconds clock_cost() {
  constexpr int kReadings = 20'000;
  std::chrono::nanoseconds total{0};
  for (int i = 0; i < kReadings; ++i) {
    const auto start = cpu_now();
    total += cpu_now() - start;
  }
  return total / kReadings;
}

std::uint64_t resident_bytes() {
  malloc_trim(0);
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

// Payloads as the decoder makes them: slices of one received frame.
std::vector<muster::Payload> slices(std::size_t count) {
  const std::size_t size_bytes = count * kPackedBytes;
  const auto buffer = std::make_shared<std::byte[]>(size_bytes);
  const muster::Bytes frame(buffer, {buffer.get(), size_bytes});
  std::vector<muster::Payload> payloads(count);
  for (std::size_t i = 0; i < count; ++i) {
    payloads[i].bytes = frame.slice(i * kPackedBytes + 2, kPayloadBytes);
  }
  return payloads;
}

muster::SchedulerOptions options() {
  muster::SchedulerOptions options;
  options.incarnation = {1, 1};
  options.credit_tasks = UINT64_MAX / 4;
  options.credit_bytes = UINT64_MAX / 4;
  return options;
}

// The scheduler with one producer and its workers, and the time spent in it.
class Rig {
 public:
  explicit Rig(std::uint32_t workers) : leases_(workers), scheduler_(options(), now_) {
    muster::message::HelloProducer hello;
    hello.session = kSession;
    give(kProducer, std::move(hello));
    muster::message::Job job;
    job.job = kJob;
    job.spec.function.name = "noop";
    give(kProducer, std::move(job));
    for (std::uint32_t i = 0; i < workers; ++i) add_worker(i);
    take();
  }

  void submit(std::uint64_t count) {
    while (count > 0) {
      const std::uint64_t batch = std::min<std::uint64_t>(count, muster::limits::kBatchTasks);
      muster::message::Submit message{kJob, TaskSequence{submitted_}, slices(batch)};
      give(kProducer, std::move(message));
      submitted_ += batch;
      count -= batch;
    }
  }

  // A job with one task, which asks for these resources.
  void submit_misfit(std::uint32_t job, const muster::Resources& wanted) {
    muster::message::Job message;
    message.job = muster::JobId{job};
    message.spec.function.name = "noop";
    message.spec.resources = wanted;
    give(kProducer, std::move(message));
    give(kProducer, muster::message::Submit{muster::JobId{job}, TaskSequence{0}, slices(1)});
  }

  // The worker reports up to `count` of its leases, oldest first, in one message.
  std::uint64_t finish(std::uint32_t worker, std::uint64_t count) {
    std::deque<muster::LeaseRange>& leases = leases_[worker];
    muster::message::WorkerOutcomes message{kSession, kJob, {}, {}};
    std::vector<muster::Payload> bodies = slices(count);
    std::uint64_t finished = 0;
    while (finished < count && !leases.empty()) {
      muster::LeaseRange& oldest = leases.front();
      const std::uint64_t part = std::min(count - finished, oldest.count);
      muster::OutcomeRun run{oldest.first, oldest.attempt, {}};
      for (std::uint64_t i = 0; i < part; ++i) {
        run.outcomes.push_back({muster::OutcomeStatus::result, std::move(bodies[finished + i])});
      }
      message.runs.push_back(std::move(run));
      finished += part;
      oldest = {oldest.first + part, oldest.count - part, oldest.attempt};
      if (oldest.count == 0) leases.pop_front();
    }
    if (finished == 0) throw std::logic_error("a worker has no leases");
    message.busy = kTaskDuration * static_cast<std::int64_t>(finished);
    bodies.clear();
    give(PeerId{kFirstWorker + worker}, std::move(message));
    return finished;
  }

  // Takes the scheduler's output to whom it belongs.
  void take() {
    const auto start = cpu_now();
    std::vector<muster::Outgoing> outgoing = scheduler_.take_outgoing(now_);
    spent_ += cpu_now() - start - clock_cost_;
    for (const muster::Outgoing& item : outgoing) deliver(item);
    const auto resumed = cpu_now();
    outgoing = {};
    spent_ += cpu_now() - resumed - clock_cost_;
  }

  // The producer acknowledges every outcome that it got.
  void acknowledge() {
    for (muster::SequenceRange& range : std::exchange(outcomes_, {})) {
      give(kProducer, muster::message::AcknowledgeOutcomes{kJob, {range}});
    }
  }

  // The worker reports the lease that it got last.
  void finish_newest(std::uint32_t worker) {
    std::deque<muster::LeaseRange>& leases = leases_[worker];
    if (leases.empty()) throw std::logic_error("a worker has no leases");
    muster::LeaseRange& newest = leases.back();
    const TaskSequence last{value(newest.first) + --newest.count};
    muster::message::WorkerOutcomes message{kSession, kJob, kLongTask, {}};
    message.runs.push_back({last, newest.attempt, {}});
    message.runs[0].outcomes.push_back({muster::OutcomeStatus::result, slices(1)[0]});
    if (newest.count == 0) leases.pop_back();
    give(PeerId{kFirstWorker + worker}, std::move(message));
  }

  std::chrono::nanoseconds take_spent() { return std::exchange(spent_, 0ns); }
  std::uint64_t submitted() const { return submitted_; }

 private:
  void add_worker(std::uint32_t index) {
    muster::message::HelloWorker hello;
    hello.worker = {1, index + 1};
    hello.node = "node";
    hello.executor = "thread";
    hello.slots = kSlots;
    hello.cores = kSlots;
    hello.memory_bytes = kMemoryBytes;
    hello.functions = {"noop"};
    give(PeerId{kFirstWorker + index}, std::move(hello));
  }

  void give(PeerId peer, Message message) {
    const auto start = cpu_now();
    scheduler_.receive(peer, std::move(message), now_);
    spent_ += cpu_now() - start - clock_cost_;
  }

  void deliver(const muster::Outgoing& item) {
    if (const auto* tasks = std::get_if<muster::message::Tasks>(&item.message)) {
      std::deque<muster::LeaseRange>& leases =
          leases_[static_cast<std::uint64_t>(item.peer) - kFirstWorker];
      for (const muster::TaskRun& run : tasks->runs) {
        leases.push_back({run.first, run.payloads.size(), run.attempt});
      }
    } else if (const auto* outcomes = std::get_if<muster::message::Outcomes>(&item.message)) {
      for (const muster::OutcomeRun& run : outcomes->runs) {
        outcomes_.push_back({run.first, run.outcomes.size()});
      }
    } else if (std::holds_alternative<muster::message::Refuse>(item.message)) {
      throw std::logic_error(std::get<muster::message::Refuse>(item.message).text);
    }
  }

  const muster::Time now_{1h};  // stands still: no heartbeat, no tick
  std::uint64_t submitted_ = 0;
  std::vector<std::deque<muster::LeaseRange>> leases_;
  std::vector<muster::SequenceRange> outcomes_;
  const std::chrono::nanoseconds clock_cost_ = clock_cost();
  std::chrono::nanoseconds spent_{0};
  muster::Scheduler scheduler_;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + kWindows / 2, values.end());
  return values[kWindows / 2];
}

// Every task is submitted, leased, ended and acknowledged while `queued` others wait.
void measure_depth(std::uint64_t queued) {
  const std::uint64_t before = resident_bytes();
  Rig rig(1);
  rig.submit(queued);
  const double bytes = static_cast<double>(resident_bytes() - before) / static_cast<double>(queued);
  const auto turn = [&] {
    rig.take();
    const std::uint64_t finished = rig.finish(0, kOutcomesPerMessage);
    rig.take();
    rig.acknowledge();
    return finished;
  };
  constexpr std::uint64_t kTasksPerWindow = 200 * muster::limits::kBatchTasks;
  std::vector<double> costs;
  for (int window = -1; window < kWindows; ++window) {  // the first one is the warm-up
    rig.take_spent();
    std::uint64_t finished = 0;
    std::uint64_t replaced = 0;
    while (finished < kTasksPerWindow) {
      finished += turn();
      if (finished - replaced < muster::limits::kBatchTasks) continue;
      rig.submit(muster::limits::kBatchTasks);
      replaced += muster::limits::kBatchTasks;
    }
    const double cost =
        static_cast<double>(rig.take_spent().count()) / static_cast<double>(finished);
    if (window >= 0) costs.push_back(cost);
  }
  std::printf(
      "{\"figure\":\"ns_per_task\",\"value\":%.2f,\"queued\":%ju,\"bytes_per_task\":%.1f,"
      "\"payload_bytes\":%zu}\n",
      median(costs), static_cast<std::uintmax_t>(queued), bytes, kPayloadBytes);
  std::fflush(stdout);
}

// Every worker holds as many leases as it gets; they report in an order that changes every round.
void measure_workers(std::uint32_t workers) {
  Rig rig(workers);
  const std::uint64_t per_round = workers * kOutcomesPerMessage;
  // An even share of what is queued must stay above what a worker takes at once.
  rig.submit(1'000'000 + 8 * per_round);
  std::vector<std::uint32_t> order(workers);
  for (std::uint32_t i = 0; i < workers; ++i) order[i] = i;
  std::mt19937 random(1);
  std::uint64_t finished = 0;
  std::uint64_t replaced = 0;
  const auto round = [&] {
    std::shuffle(order.begin(), order.end(), random);
    for (const std::uint32_t worker : order) {
      finished += rig.finish(worker, kOutcomesPerMessage);
      rig.take();
      rig.acknowledge();
      if (finished - replaced < muster::limits::kBatchTasks) continue;
      rig.submit(muster::limits::kBatchTasks);
      replaced += muster::limits::kBatchTasks;
    }
  };
  rig.take();
  for (int i = 0; i < 3; ++i) round();  // all have learned the duration and hold their prefetch
  constexpr std::uint64_t kTasksPerWindow = 200'000;
  std::vector<double> costs;
  for (int window = 0; window < kWindows; ++window) {
    rig.take_spent();
    const std::uint64_t start = finished;
    while (finished - start < kTasksPerWindow) round();
    costs.push_back(static_cast<double>(rig.take_spent().count()) /
                    static_cast<double>(finished - start));
  }
  std::printf("{\"figure\":\"ns_per_task\",\"value\":%.2f,\"workers\":%u}\n", median(costs),
              workers);
  std::fflush(stdout);
}

// A task after the other goes to one slot of a worker, the other slot has a task that does not end,
// and `jobs` jobs wait that want both. `alike`: all want the same; else each wants something else.
double cost_of_turn(std::uint32_t jobs, bool alike) {
  Rig rig(1);
  rig.submit(2);
  rig.take();
  for (std::uint32_t i = 0; i < jobs; ++i) {
    rig.submit_misfit(i + 2, {kSlots * 1000, alike ? 0 : kMemoryBytes - i, 0});
    rig.take();
  }
  constexpr std::uint64_t kTurns = 2'000;
  std::vector<double> costs;
  for (int window = -1; window < kWindows; ++window) {  // the first one is the warm-up
    rig.take_spent();
    for (std::uint64_t i = 0; i < kTurns; ++i) {
      rig.finish_newest(0);
      rig.take();
      rig.acknowledge();
      rig.submit(1);
      rig.take();
    }
    const double cost = static_cast<double>(rig.take_spent().count()) / kTurns;
    if (window >= 0) costs.push_back(cost);
  }
  return median(costs);
}

void measure_misfits(std::uint32_t jobs) {
  const double dearest = std::max(cost_of_turn(jobs, true), cost_of_turn(jobs, false));
  std::printf("{\"figure\":\"ns_per_turn\",\"value\":%.2f,\"misfits\":%u}\n", dearest, jobs);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What a task costs the scheduler, by queued tasks and by workers");
  std::uint64_t only_queued = 0;
  std::uint32_t only_workers = 0;
  app.add_option("--queued", only_queued, "measure this depth only");
  app.add_option("--workers", only_workers, "measure this number of workers only");
  std::uint32_t only_misfits = 0;
  app.add_option("--misfits", only_misfits, "measure this number of jobs that do not fit only");
  bool json = true;
  app.add_flag("--json", json, "the only format there is: one JSON object per line");
  CLI11_PARSE(app, argc, argv);
  // The broker has threads: without one here, reference counts would be cheaper than they are.
  std::thread([] {}).join();
  try {
    const bool all = only_queued == 0 && only_workers == 0 && only_misfits == 0;
    for (const std::uint64_t queued : {10'000, 100'000, 1'000'000, 10'000'000}) {
      if (all || queued == only_queued) measure_depth(queued);
    }
    for (const std::uint32_t workers : {1U, 10U, 100U, 1'000U, 10'000U}) {
      if (all || workers == only_workers) measure_workers(workers);
    }
    for (const std::uint32_t jobs : {10U, 10'000U}) {
      if (all || jobs == only_misfits) measure_misfits(jobs);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "scheduler_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
