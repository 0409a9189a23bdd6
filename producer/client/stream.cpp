#include "producer/client/stream.hpp"

#include <utility>

#include "producer/client/outcome_error.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster {
namespace detail {
namespace {

// A batch goes to the client when it has this many tasks or bytes: one lock and one wake
// then cost a few nanoseconds per task.
constexpr std::size_t kHandOverTasks = 512;
constexpr std::size_t kHandOverBytes = std::size_t{256} << 10;

// What was consumed is taken off what is held at once, at the latest for so many bytes: a part of a
// step that the broker would hear of.
constexpr std::uint64_t kSettleBytes = limits::kHeldStepBytes / 4;

}  // namespace

StreamState::StreamState(std::shared_ptr<Client> client, const JobOptions& options, Order order)
    : client_(std::move(client)), collector_(order, options.window, options.window_bytes) {}

void StreamState::open(JobSpec spec, const std::shared_ptr<StreamState>& self) {
  job_ = client_->open_job(std::move(spec), self);
}

std::uint64_t StreamState::push(Bytes payload, const std::vector<Blob>& blobs) {
  if (closed_) throw invalid_call("push() after close()");
  if (payload.size() > limits::kMaxBodyBytes) flush();  // it may wait for these tasks to end
  Payload packed = client_->pack(std::move(payload), blobs);
  const std::uint64_t known_bytes = collector_.blob_bytes();
  const std::size_t inline_bytes = packed.bytes.size();
  const std::uint64_t sequence = value(collector_.pushed(inline_bytes, packed));
  // A caller that puts more blobs may wait for this task to end.
  const bool brings_blobs = collector_.blob_bytes() > known_bytes;
  unsent_.push_back(std::move(packed));
  unsent_bytes_ += inline_bytes;
  if (brings_blobs || unsent_.size() >= kHandOverTasks || unsent_bytes_ >= kHandOverBytes) flush();
  return sequence;
}

bool StreamState::has_room() const { return collector_.has_room(client_->total_slots()); }

void StreamState::flush() {
  if (unsent_.empty()) return;
  client_->submit(job_, std::exchange(unsent_, {}));
  unsent_.reserve(kHandOverTasks);
  unsent_bytes_ = 0;
}

void StreamState::close() {
  if (std::exchange(closed_, true)) return;
  flush();
  client_->end_job(job_);
}

// Whether what is held back here would be missed there: the pool always has several times as many.
bool StreamState::pool_runs_low() const {
  const std::uint64_t missing = collector_.pushed_count() - collector_.delivered_count();
  return unsent_.size() * 5 >= missing;
}

std::optional<StreamItem> StreamState::next(
    std::optional<std::chrono::steady_clock::time_point> deadline) {
  timed_out_ = false;
  if (!unsent_.empty() && pool_runs_low()) flush();
  std::optional<Collected> collected = collector_.next();
  while (!collected) {
    if (collector_.finished()) return std::nullopt;
    flush();
    if (!wait_for_more(deadline)) {
      timed_out_ = true;
      return std::nullopt;
    }
    collected = collector_.next();
  }
  consumed_bytes_ += collected->outcome.body.bytes.size();
  if (consumed_bytes_ >= kSettleBytes) {
    const std::lock_guard lock(mutex_);
    settle_consumed();
  }
  StreamItem item{value(collected->sequence), {}, {}};
  OpenedOutcome opened = open_outcome(collected->outcome);
  item.blobs = std::move(opened.blobs);
  if (auto* bytes = std::get_if<Bytes>(&opened.result)) {
    item.result = std::move(*bytes);
  } else {
    item.error = std::get<Error>(std::move(opened.result));
  }
  return item;
}

bool StreamState::wait_for_more(std::optional<std::chrono::steady_clock::time_point> deadline) {
  {
    std::unique_lock lock(mutex_);
    settle_consumed();
    waiting_ = true;
    const bool ready =
        client_->wait(lock, changed_, deadline, [this] { return !arrived_.empty() || failure_; });
    waiting_ = false;
    if (!ready) return false;
    if (arrived_.empty()) throw *failure_;
    taken_.swap(arrived_);
  }
  for (Arrived& arrived : taken_) {
    collector_.deliver(arrived.first, std::move(arrived.outcomes));
  }
  taken_.clear();
  return true;
}

// Under mutex_.
void StreamState::settle_consumed() {
  const auto worth_saying = held_.remove(std::exchange(consumed_bytes_, 0));
  if (worth_saying) client_->hold_results(job_, *worth_saying);
}

void StreamState::cancel() {
  flush();
  client_->cancel(job_, std::nullopt);
}

void StreamState::cancel(std::uint64_t sequence) {
  flush();
  client_->cancel(job_, TaskSequence{sequence});
}

void StreamState::abandon() {
  {
    const std::lock_guard lock(mutex_);
    dropped_ = true;
  }
  client_->drop_job(job_);
}

std::string StreamState::waiting_reason() const {
  const std::lock_guard lock(mutex_);
  return waiting_reason_;
}

void StreamState::deliver(TaskSequence first, std::vector<Outcome>&& outcomes) {
  std::uint64_t bytes = 0;
  for (const Outcome& outcome : outcomes) bytes += outcome.body.bytes.size();
  const std::lock_guard lock(mutex_);
  if (dropped_) return;
  arrived_.push_back({first, std::move(outcomes)});
  if (const auto worth_saying = held_.add(bytes)) client_->hold_results(job_, *worth_saying);
  if (waiting_) changed_.notify_one();
}

void StreamState::notice(const std::string& text) {
  const std::lock_guard lock(mutex_);
  waiting_reason_ = text;
}

void StreamState::fail(const Error& error) {
  const std::lock_guard lock(mutex_);
  failure_.emplace(error);
  changed_.notify_all();
}

}  // namespace detail

Stream::Stream(std::shared_ptr<detail::StreamState> state) : state_(std::move(state)) {}
Stream::Stream(Stream&&) noexcept = default;

Stream& Stream::operator=(Stream&& other) noexcept {
  if (state_ && state_ != other.state_) state_->abandon();
  state_ = std::move(other.state_);
  return *this;
}

Stream::~Stream() {
  if (state_) state_->abandon();
}

bool Stream::has_room() const { return state_->has_room(); }
std::uint64_t Stream::push(Bytes payload, const std::vector<Blob>& blobs) {
  return state_->push(std::move(payload), blobs);
}
void Stream::flush() { state_->flush(); }
void Stream::close() { state_->close(); }
std::optional<StreamItem> Stream::next() { return state_->next(std::nullopt); }

std::optional<StreamItem> Stream::next(std::chrono::nanoseconds timeout) {
  return state_->next(detail::deadline_after(timeout));
}

bool Stream::timed_out() const { return state_->timed_out(); }
void Stream::cancel() { state_->cancel(); }
void Stream::cancel(std::uint64_t sequence) { state_->cancel(sequence); }
std::uint64_t Stream::pushed() const { return state_->pushed(); }
std::uint64_t Stream::returned() const { return state_->returned(); }
std::string Stream::waiting_reason() const { return state_->waiting_reason(); }

}  // namespace muster
