// The states behind Future and Job.
//
// Threads: any. The outcome of a call is written once, for the client, and read after `done`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <muster/producer.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "producer/client/client.hpp"
#include "producer/client/outcome_error.hpp"
#include "producer/session/ring.hpp"

namespace muster::detail {

class CallTable;

struct Call {
  std::atomic<bool> done{false};
  Outcome outcome;
  std::optional<OpenedOutcome> opened;  // from the first get() on, instead of the outcome
  JobId job{};
  std::uint64_t sequence = 0;
  std::shared_ptr<CallTable> table;
};

// The calls of one job that have no outcome yet. One mutex and one condition serve all of them:
// outcomes arrive in batches, and a batch wakes the waiters once.
class CallTable final : public Sink {
 public:
  using Deadline = Client::Deadline;

  explicit CallTable(std::shared_ptr<Client> client) : client_(std::move(client)) {}

  std::shared_ptr<Call> submit(const std::shared_ptr<CallTable>& self, JobId job,
                               Payload&& payload);
  // True when the call is done or failed; false: `deadline` passed.
  bool wait(const Call& call, Deadline deadline);
  // What ended every call that has no outcome.
  std::optional<Error> failure();
  // What came out. Precondition: the call is done or failed.
  OpenedOutcome open(Call& call);
  void cancel(const Call& call) { client_->cancel(call.job, TaskSequence{call.sequence}); }

  void deliver(TaskSequence first, std::vector<Outcome>&& outcomes) override;
  void notice(const std::string& text) override;
  void fail(const Error& error) override;

 private:
  const std::shared_ptr<Client> client_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Ring<std::shared_ptr<Call>> calls_;
  unsigned waiters_ = 0;
  std::optional<Error> failure_;
};

// An open job; the last handle's end says END_JOB, the calls live on.
struct JobState {
  JobState(std::shared_ptr<Client> its_client, const FunctionName& function,
           const JobOptions& options);
  ~JobState();
  JobState(const JobState&) = delete;
  JobState& operator=(const JobState&) = delete;

  std::shared_ptr<Call> submit(Bytes payload, const std::vector<Blob>& blobs);
  void ship(const std::string& library);
  void cancel();

  const std::shared_ptr<Client> client;
  const std::shared_ptr<CallTable> table;

 private:
  JobId open();

  std::mutex mutex_;
  JobSpec spec_;
  std::vector<std::string> shipped_;
  std::optional<JobId> job_;  // from the first submit on
};

}  // namespace muster::detail
