// The shell around a Session: one connection, one background thread, and the door through which the
// application's threads hand work in and get outcomes back.
//
// Who works: waking another thread costs more than a small task's messages. So while few tasks are
// on their way, a thread that submits sends by itself, and a lone thread that waits for an outcome
// leads: it sleeps on the connection and handles what comes. The background thread does the rest:
// many tasks, several threads that wait, and the time when none does.
//
// Owner: a Producer, and every Stream, Job and Future made from it: they may outlive the Producer,
// which stops the client. Threads: any, except where a function says otherwise. Nothing here blocks
// but wait(), wait_connected(), wait_for_slots(), next_output() and stop().
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
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

#include "common/attention.hpp"
#include "common/net/transport.hpp"
#include "producer/blobs/blob_keeper.hpp"
#include "producer/client/absence.hpp"
#include "producer/client/bell.hpp"
#include "producer/client/output_queue.hpp"
#include "producer/session/session.hpp"

namespace muster::detail {

// Where the outcomes of one job go. The functions are called by one thread at a time, whichever
// works for the client; they may lock what is also locked around the client's other functions.
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
  // A broker that is silent for longer ends every wait; nothing: waits take as long as it takes.
  std::optional<std::chrono::milliseconds> broker_timeout = {};
};

class Client {
 public:
  using Deadline = std::optional<std::chrono::steady_clock::time_point>;  // nothing: no limit

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
  // The application holds so many bytes of the job's results that it has not consumed
  // (HeldResults). A job that is dropped holds none: not after drop_job().
  void hold_results(JobId job, std::uint64_t bytes);
  std::future<message::Status> request_status();
  // The answer, or what ended the connection.
  std::future<message::NodesAnswer> request_nodes(NodeCommand command);

  // Waits until `ready()`, which reads what a Sink guards with `lock` and announces with `changed`.
  // False: `deadline` passed. Meanwhile this thread may do the client's work.
  template <typename Ready>
  bool wait(std::unique_lock<std::mutex>& lock, std::condition_variable& changed, Deadline deadline,
            const Ready& ready);
  // Tasks may use that store from now on.
  void use_store(std::string store);
  // It throws Error, std::future_error when the client is stopped.
  std::future<StoreReply> ask_store(std::uint64_t claimant, StoreQuestion question);
  // Something else than a Sink's call made a wait's `ready()` true.
  void stir();

  // Slots of the pool as the broker said last.
  std::uint32_t total_slots() const { return total_slots_.load(std::memory_order_relaxed); }
  // True when so many are connected; false when `timeout` passed first. Throws what ended every
  // wait meanwhile.
  bool wait_for_slots(std::uint32_t slots, std::chrono::nanoseconds timeout);
  // See OutputQueue::take().
  std::vector<OutputLine> next_output(std::chrono::nanoseconds timeout) {
    return output_.take(timeout);
  }

  // The payload as it should travel, with the blobs that it names; one of no bytes and one blob is
  // that blob's content. A large one becomes such a blob, if this producer shares its broker's
  // folders. May block (BlobKeeper); call it without the locks of a Sink. Throws Error invalid when
  // it is too large.
  Payload pack(Bytes bytes, const std::vector<Blob>& blobs = {}) const;
  BlobKeeper& blobs() const { return *keeper_; }
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
  struct Hold {
    JobId job{};
    std::uint64_t bytes = 0;
  };
  struct AskStatus {
    std::promise<message::Status> promise;
  };
  struct AskNodes {
    NodeCommand command;
    std::promise<message::NodesAnswer> promise;
  };
  struct AskStore {
    std::uint64_t claimant = 0;
    StoreQuestion question;
    std::promise<StoreReply> promise;
  };
  struct NameStore {
    std::string store;
  };
  using Command =
      std::variant<Open, Submit, Cancel, End, Drop, Hold, AskStatus, AskNodes, AskStore, NameStore>;
  struct OpenJob {
    std::shared_ptr<Sink> sink;
    std::uint64_t missing = 0;  // submitted and not delivered
    bool ended = false;
  };

  // A thread that works for the client when it is not asleep.
  struct Worker {
    Bell bell;
    bool asleep = false;
  };
  using Done = std::function<bool()>;

  Payload pack_body(Bytes bytes) const;
  void hand_in(Command&& command);
  void wake(std::unique_lock<std::mutex>& lock);
  static void wake(std::unique_lock<std::mutex>& lock, Worker& worker);
  Worker& on_duty() { return leading_ ? leader_ : background_; }

  // A thread that waits (client_duty.cpp).
  bool lead(Deadline deadline, const Done& done);
  bool may_lead() const;
  bool await_turn(Deadline deadline);
  void follow(std::unique_lock<std::mutex>& lock);
  void unfollow();
  // A thread that submits.
  bool may_send(std::size_t tasks) const;
  void send_now(Submit& command);

  // The background thread only.
  void run();
  void loop();
  void doze();

  void sleep(std::unique_lock<std::mutex>& lock, Worker& self, bool watch, Time until);
  void fail_turn(std::exception_ptr fault);

  bool turn(const Done& done);

  // Under turn_mutex_.
  void finish_turn(Time due);
  Time next_turn(Time now);
  bool take_commands();
  void take_blob_orders();
  void wake_for_blobs();
  void dispatch_blobs(const Session::Events& events);
  void apply(Open& command);
  void apply(Submit& command);
  void apply(Cancel& command);
  void apply(End& command);
  void apply(Drop& command);
  void apply(Hold& command);
  void apply(AskStatus& command);
  void apply(AskNodes& command);
  void apply(AskStore& command);
  void apply(NameStore& command);
  void name_store(const std::string& store);
  void follow_link(Time now);
  bool needs_connection(Time now) const;
  bool is_awaited();
  Absence::Silence silence(Time now);
  void reconnect();
  void send();
  void receive(Time now);
  void hear(const Frames& frames, Time now);
  void tell_unreadable(const Session::Unreadable& unreadable);
  void refuse(Error why);
  void dispatch();
  void dispatch(Session::Delivered&& delivered);
  void report_link();
  void report_pool(const message::Pool& pool);
  void fail_all(const Error& error);

  const ClientOptions options_;
  const SessionId id_;
  const std::shared_ptr<BlobKeeper> keeper_;
  TransportContext context_;

  // Locked in this order: turn_mutex_, what a Sink locks, the keeper's, mutex_. A thread that
  // submits holds its Sink's, so it only tries turn_mutex_.
  std::mutex mutex_;
  std::condition_variable link_changed_;
  std::vector<Command> inbox_;
  std::uint32_t last_job_ = 0;
  Worker background_;
  Worker leader_;
  bool leading_ = false;             // a waiting thread works
  unsigned followers_ = 0;           // threads that wait while another works
  std::uint64_t visits_ = 0;         // times that a waiting thread began to lead ...
  std::uint64_t visits_seen_ = 0;    // ... and what the background thread saw of them
  bool watching_ = false;            // the background thread sleeps on the connection
  bool parked_ = false;              // it sleeps until the leader leaves
  Time turn_due_{0};                 // the next turn()
  std::uint64_t tasks_in_hand_ = 0;  // after the last turn
  bool can_send_ = false;
  int dealer_descriptor_ = -1;
  int monitor_descriptor_ = -1;
  std::exception_ptr fault_;  // ended a turn; ends the client
  bool stopping_ = false;
  bool dead_ = false;  // the thread takes no more commands
  bool welcomed_ = false;
  bool pool_known_ = false;
  bool unheard_ = false;  // every wait was ended, and the broker was not heard since
  unsigned slot_waiters_ = 0;
  std::uint64_t failures_ = 0;    // times that every wait was ended ...
  std::optional<Error> failure_;  // ... and why, the last time
  std::optional<Error> refused_;  // why this client is of no use any more
  std::atomic<bool> pack_{false};
  std::atomic<std::uint32_t> total_slots_{0};
  OutputQueue output_;

  std::mutex turn_mutex_;  // held by the thread that works
  Session session_;
  std::unique_ptr<Dealer> dealer_;
  std::vector<Command> commands_;
  std::map<JobId, OpenJob> jobs_;
  std::vector<std::promise<message::Status>> status_waiters_;
  std::multimap<std::uint64_t, std::promise<message::NodesAnswer>> node_waiters_;
  std::map<std::uint64_t, std::promise<StoreReply>> store_waiters_;
  Attention attention_;  // the times of the session and of what follows are attended ones
  Absence absence_;
  std::string seal_;            // the user's; empty: no store was named yet
  std::deque<Frames> backlog_;  // what the socket did not take
  std::vector<Frames> heard_;   // of one turn
  bool replaced_ = false;       // a new connection was opened since the silence began
  Time dial_at_ = kNever;       // what listens there is not a broker: try again then
  bool stirred_ = false;        // this turn did what a thread may sleep and wait for

  std::mutex stop_mutex_;
  std::thread thread_;
};

template <typename Ready>
bool Client::wait(std::unique_lock<std::mutex>& lock, std::condition_variable& changed,
                  Deadline deadline, const Ready& ready) {
  while (!ready()) {
    if (deadline && std::chrono::steady_clock::now() >= *deadline) return false;
    lock.unlock();
    const bool led = lead(deadline, [&] {
      const std::lock_guard held(*lock.mutex());
      return ready();
    });
    lock.lock();
    if (led) continue;  // unless another thread took what was there, this wait is over
    bool arrived = true;
    if (deadline) {
      arrived = changed.wait_until(lock, *deadline, ready);
    } else {
      changed.wait(lock, ready);
    }
    unfollow();
    if (!arrived) return false;
  }
  return true;
}

}  // namespace muster::detail
