// Workers and producers of the simulated world.
#include <algorithm>
#include <utility>

#include "common/blob.hpp"
#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kResultBytes = 60'000'000;  // four of them are as much as a job may leave

Payload payload_of(std::uint32_t job, std::uint64_t sequence, Kind kind) {
  std::string text = std::to_string(job) + ":" + std::to_string(sequence) + ":" +
                     std::to_string(static_cast<int>(kind)) + ":";
  if (sequence % 10 == 3) text.resize(limits::kLargePayloadBytes + sequence, 'x');
  return {Bytes::copy(text), 0};
}

Kind kind_in(const Payload& payload) {
  const Payload body = body_of(payload);
  const std::string_view text = body.bytes.text();
  const std::size_t second = text.find(':', text.find(':') + 1);
  return static_cast<Kind>(text[second + 1] - '0');
}

}  // namespace

// --- Workers
// --------------------------------------------------------------------------------------

void World::start_worker(std::uint32_t number) {
  AgentOptions options;
  options.worker = {++worker_starts_, plan_.seed + 7};
  options.node = "node" + std::to_string(number);
  options.executor = "process";
  options.slots = 1 + static_cast<std::uint32_t>(random(plan_.max_slots));
  options.functions = {"work"};
  // Every wish fits on every worker, on however few slots.
  options.cores = plan_.max_slots;
  options.memory_bytes = 1000 * plan_.max_slots;
  options.gpus = 2;
  if (workers_.size() <= number) workers_.resize(number + 1);
  workers_[number] = std::make_unique<Worker>(number, options);
  Worker& worker = *workers_[number];
  worker.shares = plan_.faults.blobs && chance(0.3);
  worker.agent.set_sharing(worker.shares, now_);
  worker.link.on_connected = [this, &worker] {
    worker.agent.connected(now_);
    pump_worker(worker);
  };
  worker.link.on_message = [this, &worker](Message&& message) {
    worker.agent.receive(std::move(message), now_);
    pump_worker(worker);
  };
  after(random_duration(1s), [this, &worker] { connect(worker.link); });
}

void World::crash_worker(std::uint32_t number) {
  if (!workers_[number]) return;
  count("worker_crashes");
  Worker& worker = *workers_[number];
  for (const auto& [lease, payload] : worker.running) {
    --running_[{lease.session, value(lease.job), value(lease.sequence)}];
  }
  worker.running.clear();
  worker.taken.clear();
  worker.waiting.clear();
  peers_.erase(worker.link.peer);
  worker.link.up = false;
  worker.link.dead = true;
  ++worker.link.connection;
  buried_.push_back(std::move(workers_[number]));
  after(random_duration(3s), [this, number] { start_worker(number); });
}

void World::pump_worker(Worker& worker) {
  while (!worker.link.dead) {
    Agent::Actions actions = worker.agent.take_actions();
    if (actions.empty()) break;
    carry_blobs(worker, actions.blobs);
    for (const Message& message : actions.messages) to_broker(worker.link, message);
    for (TaskStart& start : actions.starts) worker.waiting.push_back(std::move(start));
    std::vector<Lease> back;
    for (const Lease& lease : actions.recalls) {
      const auto found = std::find_if(worker.waiting.begin(), worker.waiting.end(),
                                      [&](const TaskStart& w) { return w.lease == lease; });
      if (found == worker.waiting.end()) continue;
      worker.waiting.erase(found);
      back.push_back(lease);
    }
    if (!back.empty()) worker.agent.handed_back(back, now_);
    for (const Lease& lease : actions.stops) end_task(worker, lease, true);
    run_next(worker);
  }
}

void World::run_next(Worker& worker) {
  while (!worker.link.dead && worker.running.size() < worker.slots && !worker.waiting.empty()) {
    TaskStart start = std::move(worker.waiting.front());
    worker.waiting.pop_front();
    start_task(worker, std::move(start));
  }
}

void World::start_task(Worker& worker, TaskStart&& start) {
  const Lease lease = start.lease;
  const auto name = std::make_tuple(lease.session, value(lease.job), value(lease.sequence));
  count("runs");
  ++runs_[name];
  if (++running_[name] > 1) {
    count("ran_twice_at_once");
    // Only who loses sight of a worker may run its tasks a second time.
    const bool late_reports = plan_.faults.broker_crashes && plan_.faults.link_breaks;
    if (!plan_.faults.partitions && !late_reports) {
      fail("a task runs at two places though no worker was out of sight");
    }
  }
  worker.running.emplace_back(lease, start.payload);
  const Resources& wanted = start.spec->resources;
  if (is_demanding(wanted)) count("demanding_runs");
  if (start.devices.size() != wanted.gpus) fail("a task has other accelerators than it asked for");
  worker.taken[name] = {width_of(wanted, worker.shape), start.devices};
  check_room(worker);
  check_blobs(worker, start.payload);
  check_blobs(worker, start.spec->function.body);
  if (plan_.faults.output && chance(0.3)) {
    to_broker(worker.link, message::WorkerOutput{lease.session,
                                                 lease.job,
                                                 {{lease.sequence, OutputKind::output, 0, "",
                                                   std::to_string(value(lease.sequence))}},
                                                 random(2)});
  }
  if (kind_in(start.payload) == Kind::poison) {
    after(1us, [this, &worker, lease] {
      const bool runs = std::any_of(worker.running.begin(), worker.running.end(),
                                    [&](const auto& entry) { return entry.first == lease; });
      if (runs && !worker.link.dead) crash_worker(worker.number);
    });
    return;
  }
  after(random_duration(plan_.max_task),
        [this, &worker, lease] { end_task(worker, lease, false); });
}

void World::check_room(const Worker& worker) {
  std::uint64_t slots = 0;
  std::set<std::uint32_t> devices;
  std::size_t devices_taken = 0;
  for (const auto& [name, taken] : worker.taken) {
    slots += taken.width;
    devices_taken += taken.devices.size();
    devices.insert(taken.devices.begin(), taken.devices.end());
  }
  if (slots > worker.slots) fail("running tasks take more slots than there are");
  if (devices.size() != devices_taken) fail("two tasks have one accelerator");
}

void World::pause_worker(std::uint32_t number) {
  if (!workers_[number] || workers_[number]->link.dead) return;
  count("pauses");
  Worker& worker = *workers_[number];
  worker.agent.set_paused("others are busy", now_);
  pump_worker(worker);
  after(random_duration(3s), [this, &worker] {
    if (worker.link.dead) return;
    worker.agent.set_paused("", now_);
    pump_worker(worker);
  });
}

// The task returned, or was stopped by the agent's order.
void World::end_task(Worker& worker, const Lease& lease, bool stopped) {
  if (worker.link.dead) return;
  std::vector<TaskFinish> finished;
  const auto running = std::find_if(worker.running.begin(), worker.running.end(),
                                    [&](const auto& entry) { return entry.first == lease; });
  const auto waiting = std::find_if(worker.waiting.begin(), worker.waiting.end(),
                                    [&](const TaskStart& start) { return start.lease == lease; });
  if (running != worker.running.end()) {
    --running_[{lease.session, value(lease.job), value(lease.sequence)}];
    worker.taken.erase({lease.session, value(lease.job), value(lease.sequence)});
    Outcome outcome = stopped ? failed(OutcomeStatus::cancelled, {"cancelled", "stopped", "", {}})
                              : outcome_of(lease, running->second);
    worker.running.erase(running);
    finished.push_back({lease, std::move(outcome), plan_.max_task / 2});
  } else if (waiting != worker.waiting.end()) {
    worker.waiting.erase(waiting);
    finished.push_back(
        {lease, failed(OutcomeStatus::cancelled, {"cancelled", "stopped", "", {}}), Duration(0)});
  } else {
    return;
  }
  worker.agent.finished(std::move(finished), now_);
  run_next(worker);
  pump_worker(worker);
}

Outcome World::outcome_of(const Lease& lease, const Payload& payload) {
  const Kind kind = kind_in(payload);
  if (kind == Kind::fails_always || (kind == Kind::fails_once && value(lease.attempt) == 0)) {
    return failed(OutcomeStatus::error, {"exception", "as told", "", {}});
  }
  const Payload body = body_of(payload);
  if (payload.blobs == 2) {
    const BlobName name{{plan_.seed + 9, ++result_blobs_}, kResultBytes};
    return {OutcomeStatus::result, with_blobs(std::vector{name}, body)};
  }
  return {OutcomeStatus::result, body};  // an echo: whoever gets it can check it
}

// --- Producers
// ------------------------------------------------------------------------------------

void World::start_producer(std::uint32_t number) {
  producers_.push_back(std::make_unique<Producer>(
      SessionOptions{{number + 1, plan_.seed + 3},
                     "producer" + std::to_string(number),
                     plan_.seed % 2 == 0 ? Duration(0) : limits::kAcknowledgementWindow}));
  Producer& producer = *producers_.back();
  for (std::uint32_t i = 0; i < plan_.jobs_per_producer; ++i) {
    JobSpec spec;
    spec.function.name = "work";
    if (plan_.faults.blobs && chance(0.3)) {  // it comes with its libraries
      spec.function.body = with_blobs(std::vector{blob_of(i)}, {Bytes::copy("names"), 0});
    }
    if (plan_.faults.resources && chance(0.7)) {
      spec.resources = {static_cast<std::uint32_t>(1000 * random(plan_.max_slots + 1)),
                        1000 * random(plan_.max_slots + 1), static_cast<std::uint32_t>(random(3))};
    }
    spec.retries = plan_.faults.errors ? 1 : 0;
    spec.priority = static_cast<std::int32_t>(random(2));
    // Chance alone never spends the budget; poison always does.
    spec.crash_budget = plan_.faults.worker_crashes || plan_.faults.partitions ? 60 : 3;
    if (plan_.faults.poison && i == 0) spec.crash_budget = 3;
    if (plan_.faults.caps && chance(0.5)) {
      spec.max_running = 1 + static_cast<std::uint32_t>(random(3));
    }
    spec.forward_output = plan_.faults.output && chance(0.7);
    need_blobs(producer, spec.function.body);
    const Order order = chance(0.3) ? Order::completion : Order::submission;
    const std::uint64_t total = 1 + random(plan_.tasks_per_job);
    producer.jobs.push_back(
        std::make_unique<Producer::JobTruth>(producer.session.open_job(spec), order, total));
    producer.jobs.back()->cap = spec.max_running;
    producer.jobs.back()->loud = spec.forward_output;
  }
  producer.link.on_connected = [this, &producer] {
    producer.session.connected(now_);
    pump_producer(producer);
  };
  producer.link.on_message = [this, &producer](Message&& message) {
    producer.session.receive(std::move(message), now_);
    pump_producer(producer);
  };
  after(random_duration(1s), [this, &producer] { connect(producer.link); });
}

// Submits while the collector's window has room, in irregular bursts.
void World::feed(Producer& producer) {
  for (auto& job : producer.jobs) {
    std::uint64_t burst = 1 + random(40);
    while (job->truth.size() < job->total && job->collector.has_room() && burst-- > 0) {
      Kind kind = Kind::normal;
      if (plan_.faults.errors && chance(0.05)) kind = Kind::fails_once;
      if (plan_.faults.errors && chance(0.05)) kind = Kind::fails_always;
      if (plan_.faults.poison && job == producer.jobs.front() && chance(0.01)) kind = Kind::poison;
      Payload payload = payload_of(value(job->id), job->truth.size(), kind);
      payload = with_names(value(job->id), job->truth.size(), std::move(payload));
      need_blobs(producer, payload);
      const TaskSequence expected = job->collector.pushed(payload.bytes.size());
      if (producer.session.submit(job->id, std::move(payload)) != expected) {
        fail("session and collector count differently");
      }
      job->truth.push_back({kind, false, false});
    }
    if (job->truth.size() == job->total && !job->ended) {
      job->ended = true;
      producer.session.end_job(job->id);
    }
  }
}

void World::pump_producer(Producer& producer) {
  while (true) {
    Session::Events events = producer.session.take_events();
    answer_blobs(producer, events.blob_answers);
    std::vector<Message> messages = producer.session.take_messages();
    for (const message::Output& output : events.outputs) check_output(producer, output);
    if (events.pool) count("pool_told");
    if (messages.empty() && events.delivered.empty()) return;
    for (const Message& message : messages) to_broker(producer.link, message);
    for (Session::Delivered& delivered : events.delivered) {
      const std::uint32_t index = value(delivered.job) - 1;
      producer.jobs[index]->collector.deliver(delivered.first, std::move(delivered.outcomes));
    }
    for (std::uint32_t index = 0; index < producer.jobs.size(); ++index) {
      while (auto collected = producer.jobs[index]->collector.next()) {
        check_outcome(producer, index, *collected);
      }
    }
    feed(producer);
  }
}

void World::check_output(Producer& producer, const message::Output& output) {
  count("output_heard");
  const Producer::JobTruth& job = *producer.jobs.at(value(output.job) - 1);
  if (!job.loud) fail("output of a job that did not ask for it");
  for (const message::OutputLine& line : output.lines) {
    if (value(line.sequence) >= job.truth.size() ||
        line.text != std::to_string(value(line.sequence))) {
      fail("a line of another task");
    }
  }
}

void World::check_outcome(Producer& producer, std::uint32_t index, const Collected& collected) {
  Producer::JobTruth& job = *producer.jobs[index];
  const std::uint64_t sequence = value(collected.sequence);
  const std::string name =
      "job " + std::to_string(value(job.id)) + " task " + std::to_string(sequence);
  if (job.order == Order::submission && sequence != job.next_expected++) fail(name + ": order");
  if (sequence >= job.truth.size()) return fail(name + ": was never submitted");
  Task& task = job.truth[sequence];
  if (std::exchange(task.delivered, true)) fail(name + ": delivered twice");
  count("outcome_" + std::to_string(static_cast<int>(collected.outcome.status)));
  let_go_of_blobs(producer, with_names(value(job.id), sequence, {}));
  switch (collected.outcome.status) {
    case OutcomeStatus::result:
      if (task.kind == Kind::fails_always || task.kind == Kind::poison) {
        fail(name + ": a result from a task that cannot have one");
      }
      check_result_blobs(producer, collected.outcome.body);
      if (!(body_of(collected.outcome.body).bytes ==
            payload_of(value(job.id), sequence, task.kind).bytes)) {
        fail(name + ": the result of another task");
      }
      return;
    case OutcomeStatus::error:
      if (plan_.faults.blobs && plan_.faults.errors &&
          decode_failure(collected.outcome.body.bytes).kind == "blob_lost") {
        return count("blob_lost");
      }
      if (task.kind != Kind::fails_always && !(task.kind == Kind::fails_once && task.cancelled)) {
        fail(name + ": an error from a task whose retry succeeds: " +
             decode_failure(collected.outcome.body.bytes).message);
      }
      return;
    case OutcomeStatus::cancelled:
      if (!task.cancelled) fail(name + ": cancelled by nobody");
      return;
    case OutcomeStatus::lost:
      if (task.kind == Kind::poison) return;
      if (plan_.faults.worker_crashes || plan_.faults.partitions) return count("innocent_lost");
      return fail(name + ": lost though it kills nobody");
    case OutcomeStatus::timed_out:
      return fail(name + ": timed out without a limit");
  }
}

}  // namespace muster::simulator
