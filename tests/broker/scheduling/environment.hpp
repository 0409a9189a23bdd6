// The scheduler under test with its peers played by hand: domain verbs, a manual clock, every
// message through the real codec, invariants after every step.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "broker/scheduling/scheduler.hpp"
#include "common/protocol/codec.hpp"

namespace muster {

using namespace std::chrono_literals;

inline Message through_codec(const Message& message) {
  auto decoded = decode(encode(message, Packing::when_smaller));
  if (auto* error = std::get_if<DecodeError>(&decoded)) {
    ADD_FAILURE() << name_of(message) << ": " << error->reason;
  }
  return std::get<Message>(std::move(decoded));
}

struct HeldLease {
  JobId job{};
  std::uint64_t sequence = 0;
  std::uint32_t attempt = 0;
  bool operator==(const HeldLease&) const = default;
};

class SchedulerTest : public testing::Test {
 protected:
  struct WorkerSide {
    WorkerId id;
    SessionId session;  // of the last TASKS
    std::deque<HeldLease> leases;
    std::vector<HeldLease> stopped;
    std::vector<HeldLease> recalled;
    std::uint64_t acknowledged = 0;
    std::vector<Message> other;
  };
  struct ProducerSide {
    SessionId id;
    std::vector<std::pair<std::uint64_t, Outcome>> outcomes;
    std::vector<std::string> notices;
    std::vector<message::Output> outputs;
    std::vector<message::Pool> pools;
    std::vector<Message> other;
  };

  SchedulerTest() { restart(); }
  ~SchedulerTest() override { scheduler_->check_invariants(); }

  void restart() {
    options_.incarnation = {++incarnation_, 1};
    options_.software_version = "1.2.3";
    scheduler_ = std::make_unique<Scheduler>(options_, now_);
  }

  // --- Peers
  PeerId add_worker(std::uint64_t id, std::uint32_t slots,
                    std::vector<std::string> functions = {"f"},
                    std::vector<message::HeldLeases> held = {}, const std::string& python = "") {
    message::HelloWorker hello = hello_of(id, slots);
    hello.python = python;
    hello.functions = std::move(functions);
    hello.held = std::move(held);
    return join(hello);
  }
  static message::HelloWorker hello_of(std::uint64_t id, std::uint32_t slots) {
    message::HelloWorker hello;
    hello.software_version = "1.2.3";
    hello.worker = {id, 99};
    hello.node = "node";
    hello.executor = "thread";
    hello.slots = slots;
    hello.runs_commands = false;
    hello.functions = {"f"};
    return hello;
  }
  PeerId join(const message::HelloWorker& hello) {
    const PeerId peer{++last_peer_};
    workers_[peer].id = hello.worker;
    send(peer, hello);
    return peer;
  }
  PeerId add_producer(std::uint64_t id, bool resuming = false) {
    const PeerId peer{++last_peer_};
    producers_[peer].id = {id, 77};
    message::HelloProducer hello;
    hello.software_version = "1.2.3";
    hello.session = {id, 77};
    hello.label = "test";
    hello.resuming = resuming;
    send(peer, hello);
    return peer;
  }
  void send(PeerId peer, const Message& message, const RemoteUser* user = nullptr,
            const LocalUser& local = {}) {
    scheduler_->receive(peer, through_codec(message), now_, user, local);
    collect();
  }
  void disconnect(PeerId peer) {
    scheduler_->disconnected(peer, now_);
    collect();
  }
  // Time passes; the peers named stay alive.
  void pass(Duration duration, const std::vector<PeerId>& alive = {}) {
    const Time end = now_ + duration;
    while (now_ < end) {
      now_ = std::min<Time>(now_ + 250ms, end);
      for (const PeerId peer : alive) send(peer, message::Heartbeat{0, false});
      scheduler_->tick(now_);
      collect();
    }
  }

  // --- Producers
  JobId declare(PeerId producer, std::uint32_t job, JobSpec spec = {}) {
    if (spec.function.name.empty()) spec.function.name = "f";
    send(producer, message::Job{JobId{job}, spec});
    return JobId{job};
  }
  JobId declare_python(PeerId producer, std::uint32_t job, const std::string& version) {
    JobSpec spec;
    spec.function = {FunctionKind::python, "label", version, {Bytes::copy("pickled"), 0}};
    return declare(producer, job, spec);
  }
  void submit(PeerId producer, JobId job, std::uint64_t first, std::uint64_t count,
              std::size_t bytes = 3) {
    message::Submit submit{job, TaskSequence{first}, {}};
    for (std::uint64_t i = 0; i < count; ++i) {
      submit.payloads.push_back({Bytes::copy(std::string(bytes, 'p')), 0});
    }
    send(producer, submit);
  }

  // --- Workers
  void finish(PeerId worker, std::size_t count, Duration busy = 1ms,
              OutcomeStatus status = OutcomeStatus::result) {
    WorkerSide& side = workers_.at(worker);
    while (count-- > 0) {
      ASSERT_FALSE(side.leases.empty()) << "the worker has no lease to finish";
      const HeldLease lease = side.leases.front();
      side.leases.pop_front();
      finish(worker, lease, busy, status);
    }
  }
  void finish(PeerId worker, const HeldLease& lease, Duration busy = 1ms,
              OutcomeStatus status = OutcomeStatus::result) {
    Outcome outcome{OutcomeStatus::result, {Bytes::copy("r" + std::to_string(lease.sequence)), 0}};
    if (status != OutcomeStatus::result) outcome = failed(status, {"exception", "no", "", {}});
    send(worker, message::WorkerOutcomes{
                     workers_.at(worker).session,
                     lease.job,
                     busy,
                     {{TaskSequence{lease.sequence}, Attempt{lease.attempt}, {outcome}}}});
  }

  // Tasks of the job said `count` lines.
  void say(PeerId worker, PeerId producer, JobId job, std::size_t count, std::uint64_t dropped = 0,
           std::size_t bytes = 5) {
    message::WorkerOutput output{producers_.at(producer).id, job, {}, dropped};
    output.lines.assign(count,
                        {TaskSequence{0}, OutputKind::output, 0, "", std::string(bytes, 'l')});
    send(worker, output);
  }

  std::vector<std::uint64_t> sequences(PeerId worker) {
    std::vector<std::uint64_t> all;
    for (const HeldLease& lease : workers_.at(worker).leases) all.push_back(lease.sequence);
    return all;
  }
  template <typename Kind>
  const Kind* find_other(const std::vector<Message>& messages) {
    for (const Message& message : messages) {
      if (const auto* found = std::get_if<Kind>(&message)) return found;
    }
    return nullptr;
  }

  SchedulerOptions options_;
  std::unique_ptr<Scheduler> scheduler_;
  Time now_ = 1000s;
  std::map<PeerId, WorkerSide> workers_;
  std::map<PeerId, ProducerSide> producers_;

 private:
  void collect() {
    for (Outgoing& out : scheduler_->take_outgoing(now_)) {
      Message message = through_codec(out.message);
      if (workers_.count(out.peer) != 0) {
        to_worker(workers_[out.peer], std::move(message));
      } else {
        to_producer(producers_[out.peer], std::move(message));
      }
    }
    scheduler_->check_invariants();
  }
  static void each(const std::vector<LeaseRange>& ranges, JobId job, std::vector<HeldLease>& out) {
    for (const LeaseRange& range : ranges) {
      for (std::uint64_t i = 0; i < range.count; ++i) {
        out.push_back({job, value(range.first) + i, value(range.attempt)});
      }
    }
  }
  void to_worker(WorkerSide& side, Message&& message) {
    if (const auto* tasks = std::get_if<message::Tasks>(&message)) {
      side.session = tasks->session;
      for (const TaskRun& run : tasks->runs) {
        for (std::size_t i = 0; i < run.payloads.size(); ++i) {
          side.leases.push_back({tasks->job, value(run.first) + i, value(run.attempt)});
        }
      }
    } else if (const auto* stop = std::get_if<message::StopTasks>(&message)) {
      each(stop->leases, stop->job, side.stopped);
    } else if (const auto* recall = std::get_if<message::Recall>(&message)) {
      each(recall->leases, recall->job, side.recalled);
    } else if (const auto* ack = std::get_if<message::AcknowledgeLeases>(&message)) {
      for (const LeaseRange& range : ack->leases) side.acknowledged += range.count;
    } else {
      side.other.push_back(std::move(message));
    }
  }
  void to_producer(ProducerSide& side, Message&& message) {
    if (auto* outcomes = std::get_if<message::Outcomes>(&message)) {
      for (OutcomeRun& run : outcomes->runs) {
        for (std::size_t i = 0; i < run.outcomes.size(); ++i) {
          side.outcomes.emplace_back(value(run.first) + i, std::move(run.outcomes[i]));
        }
      }
    } else if (const auto* notice = std::get_if<message::Notice>(&message)) {
      side.notices.push_back(notice->text);
    } else if (auto* output = std::get_if<message::Output>(&message)) {
      side.outputs.push_back(std::move(*output));
    } else if (const auto* pool = std::get_if<message::Pool>(&message)) {
      side.pools.push_back(*pool);
    } else {
      side.other.push_back(std::move(message));
    }
  }

  std::uint64_t incarnation_ = 0;
  std::uint64_t last_peer_ = 0;
};

}  // namespace muster
