// One producer session's side of the protocol (docs/protocol.md): what was submitted and has no
// outcome yet, what the broker has of it, and what to say next.
//
// Pure: takes (event, now), gives messages and events back; no socket, clock, thread or log.
// Owner: the client (client.hpp) or a test. Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/limits.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "producer/session/asked_stores.hpp"
#include "producer/session/node_calls.hpp"
#include "producer/session/submitted_jobs.hpp"
#include "producer/session/told_blobs.hpp"

namespace muster {

struct SessionOptions {
  SessionId session;
  std::string label = {};  // shown in `muster status`
  // Acknowledgements of outcomes wait for tasks to send, so long at most: a lone task then costs
  // one message less.
  Duration acknowledgement_window = Duration(0);
  // A broker refuses a session with more that have not ended: those wait here.
  std::size_t most_jobs = limits::kMaxJobs;
};

// Where the broker keeps blobs (WELCOME); no folders: nowhere.
struct BlobTerms {
  std::vector<std::string> folders;  // in memory, on disk
  std::string token;
  std::uint64_t credit_bytes = 0;         // of blobs that are put and not released, at most ...
  std::uint64_t credit_memory_bytes = 0;  // ... and of those in the folder in memory
};

class Session {
 public:
  enum class Link {
    waiting,  // no answer to HELLO yet
    up,       // WELCOME arrived
    silent,   // nothing was heard for too long, or something unreadable: open a new connection,
              // then call connected()
    refused,  // final
  };

  using Delivered = DeliveredOutcomes;
  // A message that this version cannot read.
  struct Unreadable {
    std::string reason;
    bool is_last = false;  // one too many: the link is `refused` now, else `silent`
  };
  struct Events {
    std::vector<NodesAnswered> nodes_answered;
    std::vector<message::StoreAnswer> store_answers;  // `token` is the question's number
    std::vector<Delivered> delivered;
    std::vector<message::Notice> notices;
    std::vector<message::Output> outputs;
    std::optional<message::Pool> pool;  // the latest
    std::optional<message::Status> status;
    std::optional<message::Refuse> refused;
    std::optional<Unreadable> unreadable;
    std::optional<BlobTerms> blob_terms;
    std::vector<BlobAnswer> blob_answers;  // of blobs that are put
  };

  explicit Session(SessionOptions options);

  // --- What the application wants; accepted in every state of the link. `job` is one that
  // open_job() returned; one that has ended or is unknown is a bug of the caller (CHECK), but may
  // be cancelled.
  JobId open_job(JobSpec spec) { return jobs_.open(std::move(spec)); }
  TaskSequence submit(JobId job, Payload payload) { return jobs_.submit(job, std::move(payload)); }
  // The sequence of the first. Precondition: not empty.
  TaskSequence submit(JobId job, std::vector<Payload> payloads) {
    return jobs_.submit(job, std::move(payloads));
  }
  void end_job(JobId job) { jobs_.end(job); }                       // no more submits
  void cancel(JobId job) { jobs_.cancel(job, events_.delivered); }  // all that was submitted so far
  void cancel(JobId job, TaskSequence sequence) { jobs_.cancel(job, sequence, events_.delivered); }
  void request_status();
  // So many bytes of the job's results were delivered and are not consumed, blobs not counted; also
  // of a job that has ended. 0: nobody holds any of them any more.
  void hold_results(JobId job, std::uint64_t bytes) { jobs_.hold_results(job, bytes, sayable()); }
  // What the broker accepted is said again to its every new incarnation, in the same order.
  std::uint64_t request_nodes(NodeCommand command);
  // Nobody waits for these answers any more: commands without one are not said again.
  void forget_unanswered_nodes() { node_calls_.forget_unanswered(); }
  // Says where a blob is, before anything that names it; `kept`: it is known to be at the broker.
  // Again after each WELCOME, until it is released. A second time: the broker missed it.
  void put_blob(BlobSource source) { blobs_.put(std::move(source)); }
  // Nothing names it any more. Blobs of delivered outcomes are released as well, once each. False:
  // no broker was ever told of it.
  bool release_blob(const BlobId& id) { return blobs_.release(id); }
  // Tasks of this session may use that store from now on, and see its values of this seal. Said
  // once to each broker.
  void name_store(const std::string& store, const std::string& seal) {
    stores_.name(store, seal, sayable());
  }
  bool names_store(const std::string& store) const { return stores_.names(store); }
  // A question to the stores of computed values; its number. Asked again on a new connection.
  std::uint64_t ask_store(std::uint64_t claimant, StoreQuestion question);
  // Nobody waits for these answers any more.
  void forget_store_questions() { stores_.forget(); }
  void close();  // GOODBYE; nothing is said or heard after it

  // --- What happens on the link.
  void connected(Time now);  // a connection was made: says HELLO
  void receive(Message&& message, Time now);
  // A message came that cannot be decoded. What it said is lost: the link is given up, and the
  // broker says it again on a new connection. The third within a minute ends the session.
  void receive_unreadable(const std::string& reason, Time now);
  void tick(Time now);
  Time next_deadline() const;

  // --- What follows. Call take_messages() until it returns nothing or next_deadline() is later.
  std::vector<Message> take_messages();
  Events take_events();

  Link link() const { return link_; }
  // When the broker was last heard; before that, when it was first connected or waited for.
  std::optional<Time> silent_since() const { return heard_; }
  Duration heartbeat_interval() const { return heartbeat_interval_; }
  // A broker that answers is never silent for so long.
  Duration longest_silence() const { return heartbeat_interval_ * heartbeat_misses_; }
  // Whether packing large payloads pays (WELCOME).
  bool pack() const { return pack_; }
  const std::optional<Incarnation>& incarnation() const { return incarnation_; }
  // Submitted and without outcome.
  std::uint64_t tasks_in_hand() const { return jobs_.tasks_in_hand(); }
  std::uint64_t bytes_in_hand() const { return jobs_.bytes_in_hand(); }
  // Of those, what counts against the credit: said to the broker and not answered.
  std::uint64_t tasks_at_broker() const { return jobs_.tasks_at_broker(); }
  std::uint64_t bytes_at_broker() const { return jobs_.bytes_at_broker(); }
  // Jobs that are not finished, or whose end is not said yet.
  std::size_t jobs() const { return jobs_.count(); }

  // CHECKs that the tables do not contradict each other. Slow: tests only.
  void check_invariants() const;

 private:
  // Where what is to be said at once goes; null: nothing can be.
  std::vector<Message>* sayable() { return link_ == Link::up ? &messages_ : nullptr; }
  void set_now(Time now);
  bool can_send() const;
  void give_up(Link link);
  bool link_lives() const { return link_ == Link::up || link_ == Link::waiting; }

  void on(message::Welcome&& welcome);
  void on(message::Refuse&& refuse);
  void on(message::Unknown&& unknown);
  void on(message::Heartbeat&& heartbeat);
  void on(message::Outcomes&& outcomes);
  void on(message::Credit&& credit);
  void on(message::Notice&& notice);
  void on(message::Status&& status);
  void on(message::Output&& output);
  void on(message::Pool&& pool) { events_.pool = pool; }
  void on(message::Goodbye&&) {}  // the rest is never for a producer: dropped
  void on(message::HelloProducer&&) {}
  void on(message::HelloWorker&&) {}
  void on(message::Job&&) {}
  void on(message::Submit&&) {}
  void on(message::EndJob&&) {}
  void on(message::Cancel&&) {}
  void on(message::AcknowledgeOutcomes&&) {}
  void on(message::ResultsHeld&&) {}
  void on(message::WorkerJob&&) {}
  void on(message::Tasks&&) {}
  void on(message::WorkerOutcomes&&) {}
  void on(message::AcknowledgeLeases&&) {}
  void on(message::Recall&&) {}
  void on(message::Returned&&) {}
  void on(message::StopTasks&&) {}
  void on(message::ForgetJob&&) {}
  void on(message::WorkerState&&) {}
  void on(message::StatusRequest&&) {}
  void on(message::WorkerOutput&&) {}
  void on(message::NodesUp&&) {}
  void on(message::NodesDown&&) {}
  void on(message::NodesAnswer&& answer);
  void on(message::HelloBulk&&) {}
  void on(message::BlobPut&&) {}
  void on(message::BlobAnswers&& answers);
  void on(message::BlobRelease&&) {}
  void on(message::BlobWant&&) {}
  void on(message::BlobChunk&&) {}
  void on(message::BlobGone&&) {}
  void on(message::WorkerBlobs&&) {}
  void on(message::StoreRequest&&) {}
  void on(message::StoreAnswer&& answer);

  void say_hello();
  void take_settings(const message::Welcome& welcome);
  void resume(const message::Welcome& welcome);

  const SessionOptions options_;
  Link link_ = Link::waiting;
  bool greeted_ = false;  // HELLO was said on this connection
  bool closed_ = false;
  bool goodbye_said_ = false;
  bool status_wanted_ = false;
  bool pack_ = false;
  std::optional<Incarnation> incarnation_;
  Duration heartbeat_interval_ = limits::kHeartbeatInterval;
  std::uint32_t heartbeat_misses_ = limits::kHeartbeatMisses;
  Time now_{0};  // of the latest event
  Time said_{0};
  std::optional<Time> heard_;
  Time connected_{0};
  int unreadable_ = 0;     // messages in a row ...
  Time unreadable_at_{0};  // ... and when the last of them came

  SubmittedJobs jobs_;
  NodeCalls node_calls_;
  ToldBlobs blobs_;
  AskedStores stores_;

  std::vector<Message> messages_;  // said before anything else
  Events events_;
};

}  // namespace muster
