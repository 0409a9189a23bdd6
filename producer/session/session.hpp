// One producer session's side of the protocol (docs/protocol.md): what was submitted and has no
// outcome yet, what the broker has of it, and what to say next.
//
// Pure: takes (event, now), gives messages and events back; no socket, clock, thread or log.
// Owner: the client (client.hpp) or a test. Threads: one at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/protocol/limits.hpp"
#include "common/protocol/message.hpp"
#include "common/time.hpp"
#include "producer/session/ring.hpp"

namespace muster {

struct SessionOptions {
  SessionId session;
  std::string label = {};  // shown in `muster status`
  // Acknowledgements of outcomes wait for tasks to send, so long at most: a lone task then costs
  // one message less.
  Duration acknowledgement_window = Duration(0);
};

// Where the broker keeps blobs (WELCOME); no folders: nowhere.
struct BlobTerms {
  std::vector<std::string> folders;  // in memory, on disk
  std::string token;
  std::uint64_t credit_bytes = 0;         // of blobs that are put and not released, at most ...
  std::uint64_t credit_memory_bytes = 0;  // ... and of those in the folder in memory
};

// What the broker is to do about the nodes that it reaches by ssh.
using NodeCommand = std::variant<message::NodesUp, message::NodesDown>;

class Session {
 public:
  enum class Link {
    waiting,  // no answer to HELLO yet
    up,       // WELCOME arrived
    silent,   // nothing was heard for too long, or something unreadable: open a new connection,
              // then call connected()
    refused,  // final
  };

  // Outcomes of tasks `first`, `first` + 1, …; each sequence of a job appears at most once, ever.
  struct Delivered {
    JobId job{};
    TaskSequence first{};
    std::vector<Outcome> outcomes;
  };
  struct NodesAnswered {
    std::uint64_t number = 0;  // as request_nodes() returned it
    message::NodesAnswer answer;
  };
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
    std::optional<std::string> refused;  // the broker's text
    std::optional<Unreadable> unreadable;
    std::optional<BlobTerms> blob_terms;
    std::vector<BlobAnswer> blob_answers;  // of blobs that are put
  };

  explicit Session(SessionOptions options);

  // --- What the application wants; accepted in every state of the link. `job` is one that
  // open_job() returned; one that has ended or is unknown is a bug of the caller (CHECK), but may
  // be cancelled.
  JobId open_job(JobSpec spec);
  TaskSequence submit(JobId job, Payload payload);
  // The sequence of the first. Precondition: not empty.
  TaskSequence submit(JobId job, std::vector<Payload> payloads);
  void end_job(JobId job);  // no more submits
  void cancel(JobId job);   // every task submitted so far
  void cancel(JobId job, TaskSequence sequence);
  void request_status();
  // So many bytes of the job's results were delivered and are not consumed, blobs not counted; also
  // of a job that has ended. 0: nobody holds any of them any more.
  void hold_results(JobId job, std::uint64_t bytes);
  // What the broker accepted is said again to its every new incarnation, in the same order.
  std::uint64_t request_nodes(NodeCommand command);
  // Nobody waits for these answers any more: commands without one are not said again.
  void forget_unanswered_nodes();
  // Says where a blob is, before anything that names it; `kept`: it is known to be at the broker.
  // Again after each WELCOME, until it is released. A second time: the broker missed it.
  void put_blob(BlobSource source);
  // Nothing names it any more. Blobs of delivered outcomes are released as well, once each. False:
  // no broker was ever told of it.
  bool release_blob(const BlobId& id);
  // Tasks of this session may use that store from now on, and see its values of this seal. Said
  // once to each broker.
  void name_store(const std::string& store, const std::string& seal);
  bool names_store(const std::string& store) const;
  // A question to the stores of computed values; its number. Asked again on a new connection.
  std::uint64_t ask_store(std::uint64_t claimant, StoreQuestion question);
  // Nobody waits for these answers any more.
  void forget_store_questions() { questions_.clear(); }
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
  std::uint64_t tasks_in_hand() const { return tasks_in_hand_; }
  std::uint64_t bytes_in_hand() const { return bytes_in_hand_; }
  // Of those, what counts against the credit: said to the broker and not answered.
  std::uint64_t tasks_at_broker() const { return tasks_at_broker_; }
  std::uint64_t bytes_at_broker() const { return bytes_at_broker_; }
  // Jobs that are not finished, or whose end is not said yet.
  std::size_t jobs() const { return jobs_.size(); }

  // CHECKs that the tables do not contradict each other. Slow: tests only.
  void check_invariants() const;

 private:
  struct Task {
    Payload payload;  // released with its outcome
    bool done = false;
    bool cancel = false;  // was sent and is to be cancelled
  };
  struct Job {
    JobSpec spec;
    Ring<Task> tasks;                // begins at the oldest task without outcome
    std::uint64_t next_to_send = 0;  // tasks before it are at the broker
    std::uint64_t sent_end = 0;      // the greatest next_to_send ever
    std::vector<SequenceRange> acknowledgements;
    std::vector<SequenceRange> cancels;
    bool declared = false;  // JOB was said on this link
    bool ended = false;     // no more submits
    bool end_said = false;  // END_JOB was said on this link
    bool talking = false;   // in talkers_
    bool owing = false;     // in debtors_
    bool sending = false;   // in senders_
    bool all_sent() const { return next_to_send == tasks.end(); }
  };
  using Jobs = std::map<JobId, Job>;

  Job& open_one(JobId job);
  void append(Job& job, Payload&& payload);
  void want_to_talk(JobId id, Job& job);
  void want_to_acknowledge(JobId id, Job& job);
  bool acknowledgements_are_due() const;
  void want_to_send(JobId id, Job& job);
  bool credit_allows(std::size_t size_bytes) const;
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
  void resume_nodes(bool new_incarnation);
  void say_store(const std::string& store, const std::string& seal);
  void resume_store_names();
  void resume_stores();
  void say_held(JobId job, std::uint64_t bytes, std::vector<Message>& messages) const;
  void resume_job(JobId id, Job& job, std::optional<std::uint64_t> next_sequence);
  void accept(JobId id, Job& job, OutcomeRun&& run);
  void finish(Job& job, std::uint64_t sequence);
  void cancel_unsent(JobId id, Job& job, std::uint64_t first, std::uint64_t end);
  void talk(std::vector<Message>& messages);
  void send_tasks(std::vector<Message>& messages);
  void send_batch(JobId id, Job& job, std::vector<Message>& messages);
  void settle(Jobs::iterator job, std::vector<Message>& messages);
  void keep_blobs_of(const std::vector<Outcome>& outcomes);
  void resume_blobs(bool new_incarnation);
  void confirm_releases(std::uint64_t token);
  void talk_of_blobs(std::vector<Message>& messages);

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

  Jobs jobs_;
  std::uint32_t last_job_ = 0;
  std::vector<JobId> talkers_;  // have something else than tasks to say
  std::deque<JobId> senders_;   // have tasks to send, in turn
  std::vector<JobId> debtors_;  // have outcomes to acknowledge
  Time owed_since_{0};
  std::size_t owed_outcomes_ = 0;
  std::size_t owed_bytes_ = 0;
  std::uint64_t credit_tasks_ = 0;
  std::uint64_t credit_bytes_ = 0;
  std::uint64_t tasks_at_broker_ = 0;
  std::uint64_t bytes_at_broker_ = 0;
  std::uint64_t tasks_in_hand_ = 0;
  std::uint64_t bytes_in_hand_ = 0;
  std::map<JobId, std::uint64_t> held_results_;  // bytes; none is 0
  std::uint64_t held_result_bytes_ = 0;          // of them all
  Outcome cancelled_;  // what a task ends in that was cancelled before it was sent

  struct NodeCall {
    std::uint64_t number = 0;
    NodeCommand command;
    bool answered = false;
  };
  std::vector<NodeCall> node_calls_;       // without answer, or in effect; oldest first
  std::deque<std::uint64_t> nodes_asked_;  // said on this connection, without answer; in order
  std::uint64_t last_node_call_ = 0;

  // --- Blobs (session_blobs.cpp)
  struct HeldBlob {
    BlobSource source;
    bool adopted = false;   // the broker has it: asked for as `kept` from now on
    bool said = false;      // on any link
    bool waiting = false;   // in puts_
    bool in_doubt = false;  // asked for after a WELCOME; no answer yet
  };
  std::unordered_map<BlobId, HeldBlob> blobs_;  // put, or of an outcome, and not released
  std::vector<BlobId> puts_;                    // to be said
  std::vector<BlobId> releases_;                // to be said
  std::vector<BlobId> released_;     // said; repeated when the link breaks before the broker ...
  std::size_t released_asked_ = 0;   // ... answers a heartbeat that followed so many of them
  std::uint64_t release_token_ = 0;  // of that heartbeat, if one is under way
  std::uint64_t last_release_token_ = 0;
  std::size_t blobs_in_doubt_ = 0;  // no tasks are sent while the broker may miss some
  std::map<std::uint64_t, message::StoreRequest> questions_;  // without answer
  std::map<std::string, std::string> stores_;                 // by name: the seal
  std::uint64_t last_question_ = 0;

  std::vector<Message> messages_;  // said before anything else
  Events events_;
};

}  // namespace muster
