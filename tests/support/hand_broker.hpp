// A broker that a test drives by hand, on a real local socket: it answers what the test wants, when
// the test wants. Owner: one test; one thread.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/net/transport.hpp"
#include "common/protocol/codec.hpp"
#include "tests/support/child.hpp"

namespace muster::testing {

// Welcomes producers and gives every task its own payload back, or keeps that for later.
class HandBroker {
 public:
  explicit HandBroker(std::string endpoint) : endpoint_(std::move(endpoint)) { restart(); }

  const std::string& endpoint() const { return endpoint_; }

  // --- What it does with what it hears, in serve_until()
  bool welcomes = true;         // else a HELLO has no answer
  bool is_silent = false;       // it says nothing but that
  bool keeps_outcomes = false;  // to itself, for now
  std::chrono::milliseconds heartbeat_interval{20};
  std::uint32_t heartbeat_misses = 10;

  // Gone, with all that it knew.
  void stop() {
    router_.reset();
    context_.reset();
  }
  // Another incarnation listens there.
  void restart() {
    stop();
    ++incarnation_;
    jobs_.clear();
    outcomes_.clear();
    context_ = std::make_unique<TransportContext>();
    router_ = std::make_unique<Router>(*context_);
    router_->bind(endpoint_);
  }

  // Reads and answers until `done()`; false: it never came true.
  bool serve_until(const std::function<bool()>& done) {
    return wait_until([&] {
      while (auto received = router_->receive()) hear(*received);
      if (!is_silent) talk();
      return done();
    });
  }
  bool serve_until_hello(std::uint64_t count) {
    return serve_until([this, count] { return hellos >= count; });
  }
  bool serve_until_tasks(std::uint64_t count) {
    return serve_until([this, count] { return tasks >= count; });
  }
  void say(const Message& message) { router_->send(peer_, encode(message, Packing::never)); }
  void say_nonsense() { router_->send(peer_, {Bytes::copy("?")}); }  // it cannot be decoded

  // --- What it heard
  std::uint64_t hellos = 0;
  std::uint64_t tasks = 0;  // of all incarnations; some came again
  bool resuming = false;    // the last HELLO's
  PeerId peer() const { return peer_; }

 private:
  void hear(const Received& received) {
    auto decoded = decode(received.frames);
    Message& message = std::get<Message>(decoded);
    if (const auto* hello = std::get_if<message::HelloProducer>(&message)) {
      ++hellos;
      resuming = hello->resuming;
      peer_ = received.peer;
      is_welcome_ = welcomes;
      if (welcomes) welcome();
    } else if (received.peer != peer_ || !is_welcome_) {
      return;
    } else if (const auto* job = std::get_if<message::Job>(&message)) {
      jobs_.emplace(job->job, 0);
    } else if (auto* submit = std::get_if<message::Submit>(&message)) {
      take(std::move(*submit));
    }
  }
  void welcome() {
    message::Welcome welcome;
    welcome.software_version = "test";
    welcome.incarnation = {7, incarnation_};
    welcome.heartbeat_interval = heartbeat_interval;
    welcome.heartbeat_misses = heartbeat_misses;
    welcome.credit_tasks = limits::kCreditTasks;
    welcome.credit_bytes = limits::kCreditBytes;
    for (const auto& [job, next] : jobs_) welcome.jobs.push_back({job, TaskSequence{next}});
    say(welcome);
    say(message::Pool{2, 1});
    said_ = 0;  // all outcomes again: the producer drops those that it has
  }
  void take(message::Submit&& submit) {
    std::uint64_t& next = jobs_[submit.job];
    std::uint64_t sequence = value(submit.first);
    for (Payload& payload : submit.payloads) {
      if (sequence >= next) {
        ++tasks;
        outcomes_.push_back({submit.job,
                             {{TaskSequence{sequence},
                               Attempt{0},
                               {{OutcomeStatus::result, std::move(payload)}}}}});
        next = sequence + 1;
      }
      ++sequence;
    }
  }
  void talk() {
    if (!is_welcome_) return;
    while (!keeps_outcomes && said_ < outcomes_.size()) say(outcomes_[said_++]);
    say(message::Heartbeat{0, false});
  }

  const std::string endpoint_;
  std::unique_ptr<TransportContext> context_;
  std::unique_ptr<Router> router_;
  std::uint64_t incarnation_ = 0;
  PeerId peer_{};
  bool is_welcome_ = false;
  std::map<JobId, std::uint64_t> jobs_;  // the next sequence of each
  std::vector<message::Outcomes> outcomes_;
  std::size_t said_ = 0;
};

}  // namespace muster::testing
