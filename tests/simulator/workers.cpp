// Workers of the simulated world: an agent and a pretended executor each.
#include <algorithm>
#include <utility>

#include "common/protocol/blob_names.hpp"
#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kResultBytes = 60'000'000;  // four of them are as much as a job may leave

}  // namespace

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
  worker.link.worker = &worker;
  worker.shares = plan_.faults.blobs && chance(0.3);
  worker.agent.set_sharing(worker.shares, now_);
  worker.link.on_connected = [this, &worker] {
    count("greetings");
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
  workers_[number]->link.late = 0;
  bury_worker(number);
}

// It drained and says GOODBYE; what still runs ends with it.
void World::leave_worker(std::uint32_t number) {
  Worker& worker = *workers_[number];
  count(worker.running.empty() ? "leaves" : "leaves_with_tasks");
  if (worker.link.up && worker.agent.link() == Agent::Link::up) {
    to_broker(worker.link, message::Goodbye{});
  }
  worker.link.late = worker.link.connection;  // its socket lingers
  bury_worker(number);
}

void World::bury_worker(std::uint32_t number) {
  Worker& worker = *workers_[number];
  for (const auto& [lease, payload] : worker.running) --running_[name_of(lease)];
  for (const Audit::TaskName& task : worker.begun) audit_.lose(task);
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
  while (!worker.link.dead && !worker.link.still && worker.running.size() < worker.slots &&
         !worker.waiting.empty()) {
    TaskStart start = std::move(worker.waiting.front());
    worker.waiting.pop_front();
    start_task(worker, std::move(start));
  }
}

void World::start_task(Worker& worker, TaskStart&& start) {
  const Lease lease = start.lease;
  const Audit::TaskName name = name_of(lease);
  account_for(worker, lease);
  worker.running.emplace_back(lease, start.payload);
  const Resources& wanted = start.spec->resources;
  if (is_demanding(wanted)) count("demanding_runs");
  if (start.devices.size() != wanted.gpus) fail("a task has other accelerators than it asked for");
  worker.taken[name] = {width_of(wanted, worker.shape), start.devices};
  check_room(worker);
  if (!is_ours(lease.session)) {
    after(random_duration(plan_.max_task),
          [this, &worker, lease] { end_task(worker, lease, false); });
    return;
  }
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

// Why it runs, if others ran it before; and that it runs now.
void World::account_for(Worker& worker, const Lease& lease) {
  if (!is_ours(lease.session)) return count("hostile_runs");
  const Audit::TaskName name = name_of(lease);
  count("runs");
  if (++running_[name] > 1) count("ran_twice_at_once");
  if (worker.in_doubt && worker.seen && worker.link.up && now_ > worker.doubt_ends) {
    worker.in_doubt = false;
  }
  if (worker.untold.erase(name) > 0 || worker.in_doubt) audit_.excuse(name);
  worker.begun.insert(name);
  const std::string wrong = audit_.begin(name);
  if (!wrong.empty()) fail(wrong);
}

// The broker has read its report.
void World::note_untold(Worker& worker, const std::vector<message::HeldLeases>& held) {
  worker.untold.clear();
  for (const message::HeldLeases& entry : held) {
    if (!is_ours(entry.session)) continue;
    if (!scheduler_->waits_for_producer(entry.session, entry.job)) continue;
    const bool is_gone = producers_.at(entry.session.high - 1)->gone;
    for (const LeaseRange& range : entry.leases) {
      for (std::uint64_t i = 0; i < range.count; ++i) {
        const Audit::TaskName name{entry.session, value(entry.job), value(range.first) + i};
        if (is_gone || audit_.is_delivered(name)) worker.untold.insert(name);
      }
    }
  }
}

bool World::is_ours(const SessionId& session) const {
  return session.low == plan_.seed + 3 && session.high <= plan_.producers;
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
  if (!workers_[number] || workers_[number]->link.still) return;
  count("pauses");
  Worker& worker = *workers_[number];
  worker.agent.set_paused("others are busy", now_);
  pump_worker(worker);
  after(random_duration(3s), [this, &worker] {
    if (worker.link.dead) return;
    worker.agent.set_paused("", now_);
    if (!worker.link.still) pump_worker(worker);
  });
}

// The task returned, or was stopped by the agent's order.
void World::end_task(Worker& worker, const Lease& lease, bool stopped) {
  if (worker.link.dead) return;
  if (worker.link.still) {  // its executor's report waits
    worker.link.happened.push_back(
        [this, &worker, lease, stopped] { end_task(worker, lease, stopped); });
    return;
  }
  const Outcome ended = failed(OutcomeStatus::cancelled, {"cancelled", "stopped", "", {}});
  std::vector<TaskFinish> finished;
  const auto running = std::find_if(worker.running.begin(), worker.running.end(),
                                    [&](const auto& entry) { return entry.first == lease; });
  const auto waiting = std::find_if(worker.waiting.begin(), worker.waiting.end(),
                                    [&](const TaskStart& start) { return start.lease == lease; });
  if (running != worker.running.end()) {
    const Audit::TaskName name = name_of(lease);
    Outcome outcome = stopped ? ended : outcome_of(lease, running->second);
    if (is_ours(lease.session)) {
      --running_[name];
      audit_.finish(name);
      if (outcome.status == OutcomeStatus::error) audit_.excuse(name);
    }
    worker.taken.erase(name);
    worker.running.erase(running);
    finished.push_back({lease, std::move(outcome), plan_.max_task / 2});
  } else if (waiting != worker.waiting.end()) {
    worker.waiting.erase(waiting);
    finished.push_back({lease, ended, Duration(0)});
  } else {
    return;
  }
  worker.agent.finished(std::move(finished), now_);
  run_next(worker);
  pump_worker(worker);
}

Outcome World::outcome_of(const Lease& lease, const Payload& payload) {
  if (!is_ours(lease.session)) return {OutcomeStatus::result, {Bytes::copy("done"), 0}};
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

}  // namespace muster::simulator
