// The worker's loop: the only place that blocks. Carries messages between the broker and the agent
// and work between the agent and the executor; decides nothing but when to end.
// Threads: everything here belongs to the thread that calls `run`.
#pragma once

#include <memory>
#include <string>

#include "common/transport.hpp"
#include "worker/agent.hpp"
#include "worker/executor.hpp"

namespace muster {

struct LoopOptions {
  std::string endpoint;      // of the broker; empty: wait for connect_to()
  int signals = -1;          // a signalfd: the first signal drains, the second ends at once
  int lifeline = -1;         // end when this pipe's other side is gone; -1: none
  Duration drain_timeout{};  // how long running tasks may go on after the first signal
  Login login = {};          // at the endpoint
};

class WorkerLoop {
 public:
  WorkerLoop(LoopOptions options, Agent& agent, Executor& executor);

  // Runs until told to stop; returns the exit code of the process. Throws TransportError when the
  // endpoint cannot be used at all.
  int run();

  // From now on the broker is there: ends the connection there is and makes a new one. Throws
  // TransportError.
  void connect_to(const std::string& endpoint, const Login& login);
  // Ends the connection until connect_to(): running tasks go on, outcomes wait.
  void disconnect();

 private:
  void connect();
  void hang_up(Time dial_at);
  void watch();
  void check_connection(Time now);
  void notice_connected(Time now);
  void receive(Time now);
  void carry_out();
  void send(Message& message);
  void check_signals(Time now);
  bool ended(Time now);
  void say_goodbye();
  void notice_absence(Time now);
  void wait();

  LoopOptions options_;
  Agent& agent_;
  Executor& executor_;
  std::unique_ptr<TransportContext> context_ = std::make_unique<TransportContext>();
  std::unique_ptr<Dealer> dealer_;
  Poller poller_;
  Time next_poll_ = kNever;
  Time drain_deadline_ = kNever;
  Time warn_at_ = kNever;  // when to say that no broker answers
  Time dial_at_ = kNever;  // when to connect again
  bool refusal_told_ = false;
  bool replaced_ = false;  // the connection is new and not established yet
  bool send_failed_ = false;
  bool at_once_ = false;
};

}  // namespace muster
