// The worker's loop: the only place that blocks. Carries messages between the broker and the agent
// and work between the agent and the executor; decides nothing but when to end.
// Threads: everything here belongs to the thread that calls `run`.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/attention.hpp"
#include "common/net/transport.hpp"
#include "common/system/service_notify.hpp"
#include "worker/agent/agent.hpp"
#include "worker/agent/executor.hpp"
#include "worker/attach/control.hpp"
#include "worker/blobs/node_blobs.hpp"
#include "worker/executors/store_relay.hpp"
#include "worker/system/load.hpp"

namespace muster {

struct LoopOptions {
  std::string endpoint;        // of the broker; empty: `control` says it
  Login login = {};            // there
  Control* control = nullptr;  // of a worker that a broker started over ssh; outlives the loop
  NodeBlobs* blobs = nullptr;  // null: tasks with blobs cannot run here; outlives the loop
  int signals = -1;            // a signalfd: the first signal drains, the second ends at once
  int lifeline = -1;           // end when this pipe's other side is gone; -1: none
  Duration drain_timeout{};    // how long running tasks may go on after the first signal
  double pause_load = 0;       // pause while others keep so many cores busy; 0: never
  // What runners ask of stores; outlives the loop. Null: nothing.
  StoreRelay* stores = nullptr;
  ServiceManager service;  // systemd, which wants to know that the worker is ready and lives
};

class WorkerLoop {
 public:
  WorkerLoop(LoopOptions options, Agent& agent, Executor& executor);

  // Runs until told to stop; returns the exit code of the process. Throws TransportError when the
  // endpoint cannot be used at all.
  int run();

 private:
  void connect();
  // From now on the broker is there, and nobody without this proof is it.
  void connect_to(const std::string& endpoint, const Login& login, const std::string& proof);
  // Ends the connection until connect_to(): running tasks go on, outcomes wait.
  void disconnect();
  void obey_control(Time now);
  void drain(Duration patience, Time now);
  void hang_up(Time dial_at);
  void tell_blobs();
  void watch();
  void check_connection(Time now);
  void notice_connected(Time now);
  void receive(Time now);
  void obey(Message&& message, Time now);
  void carry_out();
  void carry_blobs(const std::vector<BlobRequest>& requests, Time now);
  void carry_store_questions(Time now);
  void send(Message& message);
  void check_signals(Time now);
  void check_load(Time now);
  bool ended(Time now);
  void say_goodbye();
  void notice_absence(Time now);
  void tell_manager();
  Time attended_now() const;
  void wait();

  LoopOptions options_;
  std::string proof_;  // of the broker that `control` named
  Agent& agent_;
  Executor& executor_;
  ServiceNotifier notifier_;
  std::unique_ptr<TransportContext> context_ = std::make_unique<TransportContext>();
  std::unique_ptr<Dealer> dealer_;
  Poller poller_;
  Attention attention_;  // the times of the agent and of the control socket are attended ones
  Time next_poll_ = kNever;
  Time drain_deadline_ = kNever;
  std::optional<LoadMeter> load_;
  Time warn_at_ = kNever;  // when to say that no broker answers
  Time dial_at_ = kNever;  // when to connect again
  bool refusal_told_ = false;
  bool replaced_ = false;  // the connection is new and not established yet
  bool send_failed_ = false;
  bool at_once_ = false;
};

}  // namespace muster
