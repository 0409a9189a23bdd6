// A Session and a scripted broker. Time moves by hand; every message passes through the codec.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/protocol/codec.hpp"
#include "producer/session/session.hpp"

namespace muster::test {

using namespace std::chrono_literals;

template <typename Kind>
Message through_codec(Kind message) {
  const Frames frames = encode(Message(std::move(message)), Packing::when_smaller);
  auto decoded = decode(frames);
  if (const auto* error = std::get_if<DecodeError>(&decoded)) {
    ADD_FAILURE() << "not decodable: " << error->reason;
    return message::Goodbye{};
  }
  return std::get<Message>(std::move(decoded));
}

class SessionEnv {
 public:
  explicit SessionEnv(Duration acknowledgement_window = Duration(0),
                      std::size_t most_jobs = limits::kMaxJobs)
      : session({SessionId{1, 2}, "test", acknowledgement_window, most_jobs}) {}
  ~SessionEnv() {
    collect();
    for (const Message& message : sent) ADD_FAILURE() << "unexpected " << name_of(message);
    EXPECT_TRUE(notices.empty());
  }

  // --- Time and link
  void advance(Duration time) {
    now += time;
    session.tick(now);
    collect();
  }
  void connect() {
    session.connected(now);
    session.check_invariants();
    collect();
  }
  template <typename Kind>
  void hear(Kind message) {
    session.receive(through_codec(std::move(message)), now);
    collect();
  }
  void hear_nonsense() {
    session.receive_unreadable("not decodable", now);
    collect();
  }
  // HELLO is answered; `jobs` is what the broker knows.
  void welcome(std::vector<message::JobProgress> jobs = {}) {
    expect<message::HelloProducer>();
    message::Welcome welcome;
    welcome.software_version = "test";
    welcome.incarnation = Incarnation{7, incarnation};
    welcome.credit_tasks = credit_tasks;
    welcome.credit_bytes = credit_bytes;
    welcome.jobs = std::move(jobs);
    hear(std::move(welcome));
  }
  void connect_and_welcome() {
    connect();
    welcome();
  }

  // --- The application
  JobId open(std::uint32_t retries = 0) {
    return session.open_job({{FunctionKind::native, "f"}, {}, retries, 0, 3});
  }
  std::uint64_t submit(JobId job, std::size_t size_bytes = 8) {
    const std::string text(size_bytes, 'x');
    return value(session.submit(job, Payload{Bytes::copy(text), 0}));
  }
  void submit_many(JobId job, int count) {
    for (int i = 0; i < count; ++i) submit(job);
    collect();
  }
  // Outcomes of tasks [first, first + count); a result's text is its sequence.
  void finish(JobId job, std::uint64_t first, std::uint64_t count = 1) {
    OutcomeRun run{TaskSequence{first}, Attempt{0}, {}};
    for (std::uint64_t i = 0; i < count; ++i) {
      run.outcomes.push_back({OutcomeStatus::result, {Bytes::copy(std::to_string(first + i)), 0}});
    }
    hear(message::Outcomes{job, {std::move(run)}});
  }

  // --- What happened
  void collect() {
    session.check_invariants();
    for (int turn = 0; turn < 1000; ++turn) {
      std::vector<Message> messages = session.take_messages();
      session.check_invariants();
      EXPECT_LE(session.tasks_at_broker(), credit_tasks);
      for (Message& message : messages) {
        sent.push_back(std::visit([](auto& m) { return through_codec(std::move(m)); }, message));
      }
      if (messages.empty()) break;
    }
    Session::Events events = session.take_events();
    for (auto& delivered : events.delivered) {
      std::uint64_t sequence = value(delivered.first);
      for (Outcome& outcome : delivered.outcomes) {
        const bool is_new = outcomes[delivered.job].emplace(sequence++, std::move(outcome)).second;
        EXPECT_TRUE(is_new) << "delivered twice";
      }
    }
    for (auto& notice : events.notices) notices.push_back(notice.text);
    for (auto& output : events.outputs) outputs.push_back(std::move(output));
    if (events.pool) pool = events.pool;
    if (events.status) status = std::move(events.status);
    if (events.refused) refused = events.refused->text;
    if (events.unreadable) unreadable = events.unreadable;
  }
  template <typename Kind>
  Kind expect() {
    collect();
    if (sent.empty() || !std::holds_alternative<Kind>(sent.front())) {
      ADD_FAILURE() << "expected " << name_of(Message(Kind{})) << ", got "
                    << (sent.empty() ? "nothing" : name_of(sent.front()));
      return {};
    }
    Kind message = std::get<Kind>(std::move(sent.front()));
    sent.pop_front();
    return message;
  }
  void expect_nothing() {
    collect();
    EXPECT_TRUE(sent.empty()) << "unexpected " << name_of(sent.front());
  }
  // One SUBMIT of exactly these tasks.
  void expect_submit(JobId job, std::uint64_t first, std::size_t count) {
    const auto submit = expect<message::Submit>();
    EXPECT_EQ(submit.job, job);
    EXPECT_EQ(value(submit.first), first);
    EXPECT_EQ(submit.payloads.size(), count);
  }
  void expect_acknowledged(JobId job, const std::vector<SequenceRange>& ranges) {
    const auto acknowledged = expect<message::AcknowledgeOutcomes>();
    EXPECT_EQ(acknowledged.job, job);
    EXPECT_EQ(acknowledged.ranges, ranges);
  }
  std::size_t delivered(JobId job) { return outcomes[job].size(); }

  Session session;
  Time now{1'000'000'000'000};
  std::uint64_t incarnation = 1;
  std::uint64_t credit_tasks = 100'000;
  std::uint64_t credit_bytes = 1 << 30;
  std::deque<Message> sent;
  std::map<JobId, std::map<std::uint64_t, Outcome>> outcomes;
  std::vector<std::string> notices;
  std::vector<message::Output> outputs;
  std::optional<message::Pool> pool;
  std::optional<message::Status> status;
  std::optional<std::string> refused;
  std::optional<Session::Unreadable> unreadable;
};

inline SequenceRange range(std::uint64_t first, std::uint64_t count) {
  return {TaskSequence{first}, count};
}
inline message::JobProgress progress(JobId job, std::uint64_t next) {
  return {job, TaskSequence{next}};
}

}  // namespace muster::test
