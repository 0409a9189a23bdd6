// The inside of a RunnerLink: what its two source files share. Owner and threads: as RunnerLink.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <muster/runner.hpp>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "worker/agent/lease.hpp"
#include "worker/agent/waiting.hpp"
#include "worker/blobs/task_blobs.hpp"
#include "worker/runner/frame_link.hpp"
#include "worker/runner/output_gate.hpp"
#include "worker/system/clock.hpp"
#include "worker/system/wake_event.hpp"

namespace muster {

// A job as the daemon declared it.
struct DeclaredJob {
  std::shared_ptr<const RunnerJob> job;
  bool forward_output = false;
  std::optional<Failure> failure = {};  // of all its tasks: its body cannot be had
};

struct HeldTask {
  std::uint64_t id = 0;
  Lease lease;
  std::shared_ptr<const DeclaredJob> job;
  Payload payload;  // until it starts
  Time started{};
};

class RunnerLink::State {
 public:
  State(int descriptor, Options options) : link_(descriptor), options_(std::move(options)) {}

  void start_reader();
  void end();

  RunnerTask next();
  void finish(std::uint64_t task_id, Bytes result, const std::vector<Blob>& blobs);
  void fail(std::uint64_t task_id, const Failure& failure);
  void say(std::uint64_t task_id, message::OutputLine&& line);
  std::vector<std::uint64_t> forgotten();
  void write(const Message& message);
  void abandon();
  TaskBlobs& blobs() { return blobs_; }
  std::future<StoreReply> ask(std::uint64_t task_id, std::uint64_t claimant,
                              StoreQuestion&& question);

 private:
  void keep_reading();
  bool pass_time(std::unique_lock<std::mutex>& lock);
  void read_as_leader(std::unique_lock<std::mutex>& lock);
  void read_some();
  void await_task(std::unique_lock<std::mutex>& lock);
  void receive(Message&& message);
  void declare(message::WorkerJob&& m);
  void queue_tasks(message::Tasks&& m);
  void stop_tasks(const message::StopTasks& m);
  void forget_job(const JobName& name);
  void take_back(const message::Recall& recall);
  void take_answer(message::StoreAnswer&& answer);
  void leave_stores(std::uint64_t task_id);
  template <typename Wanted>
  void cancel_queued(Wanted&& wanted);
  std::optional<HeldTask> take_started(std::uint64_t task_id);
  Outcome outcome_of(Bytes result, const std::vector<Blob>& blobs, bool inline_results) const;
  void report(const Lease& lease, Duration busy, Outcome&& outcome);
  void write_lines();
  void append_lines();
  void write_buffer();
  int due_in_ms();
  [[noreturn]] void leave(int status);

  int link_;
  const Options options_;
  TaskBlobs blobs_{BlobHome::from_environment(), kResultPatience};
  std::atomic<bool> abandoned_{false};
  std::atomic<bool> closing_{false};
  MessageReader reader_;                                                  // the leader's
  std::unordered_map<JobName, std::shared_ptr<const DeclaredJob>> jobs_;  // the leader's
  std::uint64_t next_key_ = 1;                                            // the leader's
  WakeEvent waker_;  // the leader is to look again: lines wait, or a task's thread wants to lead

  std::mutex write_mutex_;  // one message at a time; taken before mutex_
  std::string buffer_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<HeldTask> queue_;
  std::vector<HeldTask> started_;
  std::uint64_t next_id_ = 1;
  std::vector<std::shared_ptr<const DeclaredJob>> leaving_;  // of which no task will come
  OutputGate gate_;
  std::unordered_map<std::uint64_t, std::promise<StoreReply>> questions_;    // to stores, by token
  std::unordered_map<std::uint64_t, std::vector<std::uint64_t>> claimants_;  // by task
  std::uint64_t last_question_ = 0;
  // A thread that waits for a task reads the link itself (it leads): one thread less between the
  // daemon and the task. While all task threads run tasks the background thread leads.
  bool led_ = false;
  bool background_leads_ = false;
  unsigned waiting_ = 0;  // in next(), led by another
  Time left_{};           // when a task's thread ceased to lead
  std::condition_variable background_;
  bool background_parked_ = false;
  bool background_runs_ = false;
};

}  // namespace muster
