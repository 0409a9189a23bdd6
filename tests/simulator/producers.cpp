// Producers of the simulated world: what they submit, and what they must get back.
#include <algorithm>
#include <utility>

#include "common/protocol/blob_names.hpp"
#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {

using namespace std::chrono_literals;

void World::start_producer(std::uint32_t number) {
  producers_.push_back(std::make_unique<Producer>(
      SessionOptions{{number + 1, plan_.seed + 3},
                     "producer" + std::to_string(number),
                     plan_.seed % 2 == 0 ? Duration(0) : limits::kAcknowledgementWindow}));
  Producer& producer = *producers_.back();
  producer.link.producer = &producer;
  for (std::uint32_t i = 0; i < plan_.jobs_per_producer; ++i) {
    const JobSpec spec = draw_spec(i);
    need_blobs(producer, spec.function.body);
    const Order order = chance(0.3) ? Order::completion : Order::submission;
    const std::uint64_t total = 1 + random(plan_.tasks_per_job);
    producer.jobs.push_back(
        std::make_unique<Producer::JobTruth>(producer.session.open_job(spec), order, total));
    producer.jobs.back()->body = spec.function.body;
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

JobSpec World::draw_spec(std::uint32_t number) {
  JobSpec spec;
  spec.function.name = "work";
  // It comes with its libraries, and so runs everywhere: not where somebody hostile pretends to.
  if (plan_.faults.blobs && !plan_.faults.hostile && chance(0.3)) {
    spec.function.body = with_blobs(std::vector{blob_of(number)}, {Bytes::copy("names"), 0});
  }
  if (plan_.faults.resources && chance(0.7)) {
    spec.resources = {static_cast<std::uint32_t>(1000 * random(plan_.max_slots + 1)),
                      1000 * random(plan_.max_slots + 1), static_cast<std::uint32_t>(random(3))};
  }
  spec.retries = plan_.faults.errors ? 1 : 0;
  spec.priority = static_cast<std::int32_t>(random(2));
  // Chance alone never spends the budget; poison always does.
  spec.crash_budget = 60;
  if (plan_.faults.poison && number == 0) spec.crash_budget = 3;
  if (plan_.faults.caps && chance(0.5)) {
    spec.max_running = 1 + static_cast<std::uint32_t>(random(3));
  }
  spec.forward_output = plan_.faults.output && chance(0.7);
  return spec;
}

// It says GOODBYE before it is done, or is simply gone.
void World::leave_producer(Producer& producer, bool says_goodbye) {
  if (!closing_) count(says_goodbye ? "goodbyes_of_producers" : "deaths_of_producers");
  producer.gone = true;
  if (says_goodbye) {
    producer.session.close();
    pump_producer(producer);
  }
  Link& link = producer.link;
  link.late = link.connection;  // what its socket had got rid of
  peers_.erase(link.peer);
  link.up = false;
  link.dead = true;
  ++link.connection;
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
    if (producer.gone) continue;
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
  audit_.deliver({producer.id, value(job.id), sequence});
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
      // The first job's budget is small when it has poison: other losses may spend it, too.
      if (task.kind == Kind::poison) return count("poison_lost");
      if (plan_.faults.poison && index == 0) return count("innocent_lost");
      return fail(name + ": lost though it kills nobody");
    case OutcomeStatus::timed_out:
      return fail(name + ": timed out without a limit");
  }
}

}  // namespace muster::simulator
