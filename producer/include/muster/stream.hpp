// Jobs whose outcomes come back one by one: Stream (one job, in order, bounded) and Channel (many
// jobs, one place). Part of the producer's public face.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <muster/options.hpp>
#include <muster/outcome.hpp>
#include <optional>
#include <string>
#include <vector>

namespace muster {

namespace detail {
struct StreamState;
struct ChannelState;
}  // namespace detail

// One entry of a stream. `error` is set when there is no result; `result` is then empty. `blobs`
// are those that the result names: they stay in the pool, and count there as not yet consumed,
// until the last handle is gone. Maps outlive the handles: let go of a blob that you have mapped.
struct StreamItem {
  std::uint64_t sequence = 0;
  Bytes result;
  std::optional<Error> error;
  std::vector<Blob> blobs = {};
};

// A job whose outcomes come back one by one, in submission or completion order, with bounded
// run-ahead. The plain layer under map and as_completed, and what `muster run` uses.
// Destroying it cancels what has no outcome yet.
class MUSTER_API Stream {
 public:
  explicit Stream(std::shared_ptr<detail::StreamState> state);
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  ~Stream();

  // Whether the window has room. A push beyond it is accepted but defeats the bound.
  bool has_room() const;
  // Adds a task; returns its sequence. Sent at the latest when next() is called. `blobs` are those
  // that the payload names, in the order in which the task finds them; a payload of no bytes and
  // one blob is that blob's content. Blocks only where Producer::scatter() does: a payload beyond
  // 1 MiB becomes a blob by itself.
  std::uint64_t push(Bytes payload, const std::vector<Blob>& blobs = {});
  // Sends what was pushed, without waiting for a full batch.
  void flush();
  // No more pushes. After the last outcome next() then returns nothing.
  void close();
  // The next outcome. Blocks until there is one; nothing: closed and all were returned (or nothing
  // was pushed that is still missing). Throws Error disconnected or refused.
  std::optional<StreamItem> next();
  // As next(), but also returns nothing when `timeout` passed; `timed_out()` tells which.
  std::optional<StreamItem> next(std::chrono::nanoseconds timeout);
  bool timed_out() const;
  // Ends every task without outcome; their outcomes still arrive, as cancelled.
  void cancel();
  void cancel(std::uint64_t sequence);
  // How many tasks were pushed, and how many outcomes next() has returned.
  std::uint64_t pushed() const;
  std::uint64_t returned() const;
  // Why the broker says the job waits ("no worker is connected ..."); empty while it does not.
  std::string waiting_reason() const;

 private:
  std::shared_ptr<detail::StreamState> state_;
};

// Until when a Channel counts the bytes of a job's results as not consumed. While a job holds much
// of that no more of its tasks start; blobs count by themselves.
enum class ResultsCount {
  until_taken,    // by next()
  until_consumed  // as consumed() says
};

// One outcome from a Channel. `error` is set when there is no result; `result` is then empty.
// `blobs` as in a StreamItem; a result beyond 1 MiB counts in the pool as not yet consumed until
// the last copy of these bytes is gone.
struct ChannelOutcome {
  std::uint32_t job = 0;
  std::uint64_t sequence = 0;
  Bytes result;
  std::optional<Error> error;
  std::vector<Blob> blobs = {};
  bool is_blob = false;  // the result's bytes are a blob themselves
};

// Many jobs whose outcomes all come out of one place, in completion order: for event loops and
// other languages. There is no window: the caller limits how many tasks are under way.
// Threads: any, all functions. Destroying it cancels what has no outcome yet.
class MUSTER_API Channel {
 public:
  explicit Channel(std::shared_ptr<detail::ChannelState> state);
  Channel(Channel&&) noexcept;
  Channel& operator=(Channel&&) noexcept;
  ~Channel();

  // Opens a job; its number names it in the other calls.
  std::uint32_t open(const FunctionName& function, const JobOptions& options = {},
                     ResultsCount count = ResultsCount::until_taken);
  // Adds a task; returns its sequence, counted from 0. Arguments and blocking as Stream::push().
  // Throws Error invalid when the job is not open, and what ended it when the connection failed.
  std::uint64_t push(std::uint32_t job, Bytes payload, const std::vector<Blob>& blobs = {});
  // Ends a task, or all of the job; their outcomes still arrive, as cancelled.
  void cancel(std::uint32_t job, std::optional<std::uint64_t> sequence = {});
  // So many bytes of results that were taken are consumed: of a job until_consumed, the sizes of
  // `ChannelOutcome::result` where that is not a blob. Others: no effect.
  void consumed(std::uint32_t job, std::uint64_t bytes);
  // No more pushes; the job is forgotten after its last outcome.
  void close(std::uint32_t job);
  // Cancels what is left of the job; no outcome of it arrives from now on.
  void drop(std::uint32_t job);
  // What came out: blocks until there is something, `timeout` passed or wake() was called (then it
  // is empty). At most `most` outcomes, at least 1. Throws Error disconnected or refused, after
  // what had arrived: nothing more comes of the jobs that were open then. Jobs opened later work.
  std::vector<ChannelOutcome> next(std::chrono::nanoseconds timeout, std::size_t most = 1024);
  void wake();  // ends one next(): the one that waits, or else the following
  // As Stream::waiting_reason().
  std::string waiting_reason(std::uint32_t job) const;

 private:
  std::shared_ptr<detail::ChannelState> state_;
};

}  // namespace muster
