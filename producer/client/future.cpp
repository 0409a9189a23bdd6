#include "producer/client/future.hpp"

#include <utility>

#include "producer/client/job_spec.hpp"
#include "producer/client/outcome_error.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster {
namespace detail {

JobState::JobState(std::shared_ptr<Client> its_client, const FunctionName& function,
                   const JobOptions& options)
    : client(std::move(its_client)),
      table(std::make_shared<CallTable>(client)),
      spec_(spec_of(*client, function, options)),
      shipped_(shipped_by(function, options)) {}

JobState::~JobState() {
  if (job_) client->end_job(*job_);
}

JobId JobState::open() {
  const std::lock_guard lock(mutex_);
  if (!job_) job_ = client->open_job(std::move(spec_), table);
  return *job_;
}

std::shared_ptr<Call> JobState::submit(Bytes payload, const std::vector<Blob>& blobs) {
  const JobId job = open();
  return table->submit(table, job, client->pack(std::move(payload), blobs));
}

void JobState::ship(const std::string& library) {
  const std::lock_guard lock(mutex_);
  if (job_) throw invalid_call("ship() after the job's first submit()");
  std::vector<std::string> shipped = shipped_;
  shipped.push_back(library);
  spec_.function.body = pack_libraries(*client, spec_.function.kind, shipped);
  shipped_ = std::move(shipped);
}

void JobState::cancel() {
  const std::lock_guard lock(mutex_);
  if (job_) client->cancel(*job_, std::nullopt);
}

std::shared_ptr<Call> CallTable::submit(const std::shared_ptr<CallTable>& self, JobId job,
                                        Payload&& payload) {
  auto call = std::make_shared<Call>();
  call->table = self;
  call->job = job;
  const std::lock_guard lock(mutex_);
  if (failure_) return call;
  call->sequence = calls_.end();
  calls_.push(call);
  client_->submit_one(job, std::move(payload));  // under the lock: both number calls alike
  return call;
}

bool CallTable::wait(const Call& call, Deadline deadline) {
  if (call.done.load(std::memory_order_acquire)) return true;
  std::unique_lock lock(mutex_);
  const auto over = [&] {
    return call.done.load(std::memory_order_acquire) || failure_.has_value();
  };
  ++waiters_;
  const bool is_over = client_->wait(lock, changed_, deadline, over);
  --waiters_;
  return is_over;
}

// Once: a result that is a blob is not kept in the pool for as long as somebody has the future.
OpenedOutcome CallTable::open(Call& call) {
  const std::lock_guard lock(mutex_);
  if (!call.opened) {
    call.opened.emplace(open_outcome(call.outcome));
    call.outcome = {};
  }
  return *call.opened;
}

std::optional<Error> CallTable::failure() {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void CallTable::deliver(TaskSequence first, std::vector<Outcome>&& outcomes) {
  const std::lock_guard lock(mutex_);
  std::uint64_t sequence = value(first);
  for (Outcome& outcome : outcomes) {
    std::shared_ptr<Call> call = std::move(calls_[sequence++]);
    call->outcome = std::move(outcome);
    call->done.store(true, std::memory_order_release);
  }
  while (!calls_.empty() && !calls_.front()) calls_.pop_front();
  if (waiters_ > 0) changed_.notify_all();
}

void CallTable::notice(const std::string&) {}  // a Future has no way to show it

void CallTable::fail(const Error& error) {
  Ring<std::shared_ptr<Call>> calls;
  const std::lock_guard lock(mutex_);
  std::swap(calls, calls_);  // destroyed after the lock: calls refer to this table
  failure_.emplace(error);
  changed_.notify_all();
}

namespace {

Bytes outcome_of(Call& call) {
  if (!call.done.load(std::memory_order_acquire)) throw *call.table->failure();
  OpenedOutcome opened = call.table->open(call);
  if (auto* bytes = std::get_if<Bytes>(&opened.result)) return std::move(*bytes);
  throw std::get<Error>(std::move(opened.result));
}

Call& checked(const std::shared_ptr<Call>& call) {
  if (!call) throw invalid_call("the Future holds no task");
  return *call;
}

}  // namespace
}  // namespace detail

Bytes RawFuture::get() const {
  detail::Call& call = detail::checked(call_);
  call.table->wait(call, std::nullopt);
  return detail::outcome_of(call);
}

Bytes RawFuture::get(std::chrono::nanoseconds timeout) const {
  if (!wait_for(timeout)) {
    throw Error(ErrorCode::wait_timed_out, "wait_timed_out",
                "the outcome did not arrive within the time given; the task goes on");
  }
  return detail::outcome_of(*call_);
}

bool RawFuture::wait_for(std::chrono::nanoseconds timeout) const {
  const detail::Call& call = detail::checked(call_);
  return call.table->wait(call, detail::deadline_after(timeout));
}

bool RawFuture::ready() const {
  const detail::Call& call = detail::checked(call_);
  return call.done.load(std::memory_order_acquire) || call.table->failure().has_value();
}

void RawFuture::cancel() const {
  const detail::Call& call = detail::checked(call_);
  if (!call.done.load(std::memory_order_acquire)) call.table->cancel(call);
}

std::uint64_t RawFuture::sequence() const { return detail::checked(call_).sequence; }

std::vector<Blob> RawFuture::blobs() const {
  detail::Call& call = detail::checked(call_);
  if (!call.done.load(std::memory_order_acquire)) return {};
  return call.table->open(call).blobs;
}

RawFuture Job::submit_raw(Bytes payload, const std::vector<Blob>& blobs) {
  return RawFuture(state_->submit(std::move(payload), blobs));
}

Job& Job::ship(const std::string& library) {
  state_->ship(library);
  return *this;
}

void Job::cancel() { state_->cancel(); }

}  // namespace muster
