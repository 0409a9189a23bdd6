// An agent between a broker and an executor that the test plays. Time moves by hand and every
// message goes through the real codec.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "common/protocol/codec.hpp"
#include "worker/agent/agent.hpp"

namespace muster {

inline constexpr SessionId kSession{1, 2};
inline constexpr JobId kJob{1};
inline constexpr Incarnation kIncarnation{5, 6};

template <typename Kind>
Kind through_codec(const Kind& message) {
  auto decoded = decode(encode(Message(message), Packing::never));
  EXPECT_TRUE(std::holds_alternative<Message>(decoded));
  return std::get<Kind>(std::get<Message>(std::move(decoded)));
}

class AgentEnv {
 public:
  explicit AgentEnv(std::uint32_t slots = 2) : AgentEnv(options(slots)) {}
  explicit AgentEnv(const AgentOptions& its) : agent(its) {}

  static AgentOptions options(std::uint32_t slots) {
    AgentOptions made;
    made.worker = WorkerId{3, 4};
    made.node = "node";
    made.executor = "thread";
    made.slots = slots;
    made.cores = 8;
    made.python = "3.11";
    made.functions = {"square"};
    return made;
  }

  // --- The broker's words
  template <typename Kind>
  void say(const Kind& message) {
    agent.receive(through_codec(message), now);
    settle();
  }
  void connect() {
    agent.connected(now);
    settle();
  }
  void connect_and_declare() {
    connect();
    message::Welcome welcome{};
    welcome.software_version = "broker";
    welcome.incarnation = kIncarnation;
    say(welcome);
    declare();
    messages.clear();
  }
  void declare(bool forward_output = false) {
    JobSpec spec;
    spec.forward_output = forward_output;
    say(message::WorkerJob{kSession, kJob, spec});
  }
  void lease(std::uint64_t first, std::uint64_t count, std::uint32_t attempt = 0) {
    message::Tasks tasks{kSession, kJob, {{TaskSequence{first}, Attempt{attempt}, {}}}};
    for (std::uint64_t i = 0; i < count; ++i) {
      tasks.runs[0].payloads.push_back({Bytes::copy("argument"), 0});
    }
    say(tasks);
  }
  static std::vector<LeaseRange> range(std::uint64_t first, std::uint64_t count,
                                       std::uint32_t attempt = 0) {
    return {{TaskSequence{first}, count, Attempt{attempt}}};
  }

  // --- The executor's words
  void finish(std::uint64_t sequence, std::uint32_t attempt = 0,
              Duration busy = std::chrono::seconds(1)) {
    std::vector<TaskFinish> tasks;
    tasks.push_back({{kSession, kJob, TaskSequence{sequence}, Attempt{attempt}},
                     {OutcomeStatus::result, {Bytes::copy("result"), 0}},
                     busy});
    agent.finished(std::move(tasks), now);
    settle();
  }
  void print(const std::string& text, JobId job = kJob) {
    std::vector<message::WorkerOutput> outputs = {
        {kSession, job, {{TaskSequence{0}, OutputKind::output, 0, "", text}}, 2}};
    agent.said(std::move(outputs), now);
    settle();
  }
  void hand_back(std::uint64_t sequence, std::uint32_t attempt = 0) {
    agent.handed_back({{kSession, kJob, TaskSequence{sequence}, Attempt{attempt}}}, now);
    settle();
  }
  void advance(Duration by) {
    now += by;
    agent.tick(now);
    settle();
  }

  void settle() {
    agent.check_invariants();
    Agent::Actions actions = agent.take_actions();
    agent.check_invariants();
    for (const Message& message : actions.messages) {
      auto decoded = decode(encode(message, Packing::never));
      ASSERT_TRUE(std::holds_alternative<Message>(decoded)) << name_of(message);
      messages.push_back(std::get<Message>(std::move(decoded)));
    }
    forgets.insert(forgets.end(), actions.forgets.begin(), actions.forgets.end());
    for (const TaskStart& start : actions.starts) started.push_back(value(start.lease.sequence));
    stops.insert(stops.end(), actions.stops.begin(), actions.stops.end());
    recalls.insert(recalls.end(), actions.recalls.begin(), actions.recalls.end());
    requests.insert(requests.end(), actions.blobs.begin(), actions.blobs.end());
  }

  // The next message, which must be of this kind.
  template <typename Kind>
  Kind expect() {
    if (messages.empty()) {
      ADD_FAILURE() << "no message was sent";
      return {};
    }
    const Message message = messages.front();
    messages.erase(messages.begin());
    EXPECT_TRUE(std::holds_alternative<Kind>(message)) << "got " << name_of(message);
    return std::holds_alternative<Kind>(message) ? std::get<Kind>(message) : Kind{};
  }
  void expect_nothing() {
    for (const Message& message : messages) ADD_FAILURE() << "unexpected " << name_of(message);
  }

  Agent agent;
  Time now = std::chrono::seconds(100);
  std::vector<Message> messages;
  std::vector<std::uint64_t> started;
  std::vector<Lease> stops;
  std::vector<Lease> recalls;
  std::vector<JobName> forgets;
  std::vector<BlobRequest> requests;
};

}  // namespace muster
