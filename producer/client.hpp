// The shell around a Session: one connection, one background thread, and the door through which the
// application's threads hand work in and get outcomes back.
//
// Owner: a Producer, and every Stream, Job and Future made from it: they may outlive the Producer,
// which stops the client. Threads: any, except where a function says otherwise. Nothing here blocks
// but wait_connected(), wait_for_slots(), next_output() and stop().
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <muster/outcome.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "common/transport.hpp"
#include "producer/output_queue.hpp"
#include "producer/session.hpp"

namespace muster::detail {

// Where the outcomes of one job go. All functions are called on the client's thread.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void deliver(TaskSequence first, std::vector<Outcome>&& outcomes) = 0;
  virtual void notice(const std::string& text) = 0;
  // Nothing more will come; the last call.
  virtual void fail(const Error& error) = 0;
};

struct ClientOptions {
  std::string endpoint;
  std::string label;
  std::chrono::milliseconds broker_timeout{30'000};
};

class Client {
 public:
  explicit Client(ClientOptions options);  // throws TransportError
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // True once the broker said WELCOME and how large the pool is; false when `timeout` passed first.
  // Throws Error refused.
  bool wait_connected(std::chrono::nanoseconds timeout);
  // Says GOODBYE, ends the thread and every wait. Idempotent.
  void stop();

  // Each job's payloads are numbered in the order of these calls, from 0.
  JobId open_job(JobSpec spec, std::shared_ptr<Sink> sink);
  void submit(JobId job, std::vector<Payload>&& payloads);
  void submit_one(JobId job, Payload&& payload);
  void cancel(JobId job, std::optional<TaskSequence> sequence);
  // No more submits. The sink is released after its last outcome.
  void end_job(JobId job);
  // Cancels what is left and releases the sink.
  void drop_job(JobId job);
  std::future<message::Status> request_status();

  // Slots of the pool as the broker said last.
  std::uint32_t total_slots() const { return total_slots_.load(std::memory_order_relaxed); }
  // True when so many are connected; false when `timeout` passed first. Throws what ended every
  // wait meanwhile.
  bool wait_for_slots(std::uint32_t slots, std::chrono::nanoseconds timeout);
  // See OutputQueue::take().
  std::vector<OutputLine> next_output(std::chrono::nanoseconds timeout) {
    return output_.take(timeout);
  }

  // The payload as it should travel. Throws Error invalid when it is too large.
  Payload pack(Bytes bytes) const;
  const ClientOptions& options() const { return options_; }

 private:
  struct Open {
    JobId job{};
    JobSpec spec;
    std::shared_ptr<Sink> sink;
  };
  struct Submit {
    JobId job{};
    std::vector<Payload> payloads;
  };
  struct Cancel {
    JobId job{};
    std::optional<TaskSequence> sequence;
  };
  struct End {
    JobId job{};
  };
  struct Drop {
    JobId job{};
  };
  struct AskStatus {
    std::promise<message::Status> promise;
  };
  using Command = std::variant<Open, Submit, Cancel, End, Drop, AskStatus>;
  struct OpenJob {
    std::shared_ptr<Sink> sink;
    std::uint64_t missing = 0;  // submitted and not delivered
    bool ended = false;
  };

  void hand_in(Command&& command);
  void wake(std::unique_lock<std::mutex>& lock);

  // The client's thread only.
  void run();
  void loop();
  bool take_commands();
  void apply(Open& command);
  void apply(Submit& command);
  void apply(Cancel& command);
  void apply(End& command);
  void apply(Drop& command);
  void apply(AskStatus& command);
  void follow_link(Time now);
  void reconnect();
  void send();
  void receive(Time now);
  void sleep_until(Time deadline);
  void dispatch();
  void dispatch(Session::Delivered&& delivered);
  void report_link();
  void report_pool(const message::Pool& pool);
  void fail_all(const Error& error);
  Error silence_error(Time now) const;

  const ClientOptions options_;
  TransportContext context_;
  const int wake_descriptor_;  // an eventfd

  std::mutex mutex_;
  std::condition_variable link_changed_;
  std::vector<Command> inbox_;
  std::uint32_t last_job_ = 0;
  bool sleeping_ = false;
  bool stopping_ = false;
  bool dead_ = false;  // the thread takes no more commands
  bool welcomed_ = false;
  bool pool_known_ = false;
  bool unheard_ = false;  // every wait was ended, and the broker was not heard since
  unsigned slot_waiters_ = 0;
  std::uint64_t failures_ = 0;    // times that every wait was ended ...
  std::optional<Error> failure_;  // ... and why, the last time
  std::optional<std::string> refused_;
  std::atomic<bool> pack_{false};
  std::atomic<std::uint32_t> total_slots_{0};
  OutputQueue output_;

  // The client's thread only.
  Session session_;
  std::unique_ptr<Dealer> dealer_;
  Poller poller_;
  std::vector<Command> commands_;
  std::map<JobId, OpenJob> jobs_;
  std::vector<std::promise<message::Status>> status_waiters_;
  std::deque<Frames> backlog_;  // what the socket did not take
  bool replaced_ = false;       // a new connection was opened since the silence began

  std::mutex stop_mutex_;
  std::thread thread_;
};

}  // namespace muster::detail
