// The producer: submits tasks to a pool and collects their outcomes. The public face for
// applications; everything here is installed.
//
//   muster::Producer producer;                                     // embedded pool on this machine
//   auto future = producer.submit<double>("simulate", 42, 0.1);    // one task
//   for (double r : producer.map<double>("score", items)) use(r);  // many, in submission order
//
// Owner: the application. A Producer owns one background thread, one connection to the broker and,
// if it started one, the embedded pool. Its destructor cancels all tasks without outcome.
// Threads: a Producer, its Jobs and Futures may be used from any threads at once. One Results or
// Stream belongs to one thread at a time. Do not fork a process that has a Producer.
// Blocking: only get(), wait_for(), iteration over Results, next() of a Stream or Channel,
// status(), wait_for_slots(), next_output() and the constructor block, each at most as long as its
// comment says. Calls that put blobs into the pool (scatter) block while there is no room.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <muster/options.hpp>
#include <muster/outcome.hpp>
#include <muster/pack.hpp>
#include <muster/results.hpp>
#include <muster/store.hpp>
#include <muster/stream.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace muster {

namespace detail {
struct ProducerState;  // the connection, its thread and the embedded pool
struct Call;           // one future's shared state
struct JobState;
}  // namespace detail

// Stands for the outcome of one task, which may come later. Copyable; copies share the outcome.
class MUSTER_API RawFuture {
 public:
  RawFuture() = default;
  explicit RawFuture(std::shared_ptr<detail::Call> call) : call_(std::move(call)) {}

  // The result's bytes. Blocks until the outcome is there. Throws Error if the task has no result
  // (see ErrorCode), at the latest Options::broker_timeout after the broker fell silent.
  Bytes get() const;
  // The same, but throws ErrorCode::wait_timed_out after `timeout`; the task goes on.
  Bytes get(std::chrono::nanoseconds timeout) const;
  // Blocks up to `timeout`; true when the outcome is there.
  bool wait_for(std::chrono::nanoseconds timeout) const;
  // Whether the outcome is there. Never blocks.
  bool ready() const;
  // Asks to end the task, whether it runs or not. Its outcome is then task_cancelled, unless it
  // finished first. Never blocks.
  void cancel() const;
  // The number of the task in its job, counted from 0.
  std::uint64_t sequence() const;
  // The blobs that the result names; call it after get(). See StreamItem.
  std::vector<Blob> blobs() const;

 private:
  std::shared_ptr<detail::Call> call_;
};

// A RawFuture whose result is a value. Copyable; copies share the outcome.
template <typename Result>
class Future {
 public:
  Future() = default;
  explicit Future(RawFuture raw) : raw_(std::move(raw)) {}
  // As RawFuture::get(). Throws PackError if the result is not of type `Result`.
  Result get() const { return unpack(raw_.get()); }
  Result get(std::chrono::nanoseconds timeout) const { return unpack(raw_.get(timeout)); }
  bool wait_for(std::chrono::nanoseconds timeout) const { return raw_.wait_for(timeout); }
  bool ready() const { return raw_.ready(); }
  void cancel() const { raw_.cancel(); }
  std::uint64_t sequence() const { return raw_.sequence(); }
  const RawFuture& raw() const { return raw_; }

 private:
  Result unpack(const Bytes& bytes) const {
    if constexpr (pack_detail::kHoldsNoBlobs<Result>) {
      return unpack_value<Result>(bytes);
    } else {
      return unpack_value<Result>(bytes, raw_.blobs());
    }
  }
  RawFuture raw_;
};

// A job of single submits that share a function and options. Copyable handle.
class MUSTER_API Job {
 public:
  explicit Job(std::shared_ptr<detail::JobState> state) : state_(std::move(state)) {}
  // Arguments and blocking as Stream::push().
  RawFuture submit_raw(Bytes payload, const std::vector<Blob>& blobs = {});
  template <typename Result, typename... Arguments>
  Future<Result> submit(const Arguments&... arguments) {
    thread_local BytesArena arena;
    return Future<Result>(submit_raw(pack_arguments(arena, arguments...), blobs_of(arguments...)));
  }
  // As JobOptions::ship; before the first submit, else throws Error invalid.
  Job& ship(const std::string& library);
  // Ends every task of the job that has no outcome.
  void cancel();

 private:
  std::shared_ptr<detail::JobState> state_;
};

// The state of the pool at one moment, as `muster status` shows it.
struct PoolStatus {
  std::string json;  // the whole status as a JSON object (docs/protocol.md, "STATUS")
  std::uint32_t total_slots = 0;
  std::uint32_t workers = 0;
};

// One line that a task printed, logged or warned on a worker (JobOptions::forward_output).
struct OutputLine {
  enum class Kind : std::uint8_t { output = 0, error = 1, log = 2, warning = 3 };
  std::uint32_t job = 0;
  std::uint64_t sequence = 0;
  std::string node;
  Kind kind = Kind::output;
  std::uint32_t level = 0;    // log: 10 debug, 20 info, 30 warning, 40 error, 50 critical
  std::string name;           // log: the logger's; warning: its category
  std::string text;           // without the line break
  std::uint64_t dropped = 0;  // lines left out before this one because there were too many
};

class MUSTER_API Producer {
 public:
  // Connects, or starts the embedded pool. Blocks up to Options::connect_timeout; throws Error
  // (unusable, disconnected, refused).
  explicit Producer(const Options& options = {});
  // Ends the session: tasks without outcome are cancelled, and an embedded pool ends. Blocks at
  // most about two seconds, with machines reached by ssh five.
  ~Producer();
  Producer(const Producer&) = delete;
  Producer& operator=(const Producer&) = delete;

  // One task of the native function `name`. Never blocks. All such submits with the default options
  // form one job per function; a python function is a job of its own each time.
  template <typename Result, typename... Arguments>
  Future<Result> submit(const std::string& name, const Arguments&... arguments) {
    thread_local BytesArena arena;
    return Future<Result>(
        submit_raw({name, false}, pack_arguments(arena, arguments...), blobs_of(arguments...)));
  }
  // The same for bytes, and for commands and python functions.
  RawFuture submit_raw(const FunctionName& function, Bytes payload,
                       const std::vector<Blob>& blobs = {});

  // Three ways to run many tasks of one function with options of their own: single futures, a
  // bounded sequence of outcomes, or one place where the outcomes of many jobs come out. None
  // blocks. Throw Error invalid for options that no broker would take.
  Job job(const FunctionName& function, const JobOptions& options = {});
  Stream stream(const FunctionName& function, const JobOptions& options = {},
                Order order = Order::submission);
  Channel channel();

  // Applies the native function `name` to every item of `inputs` (any input range; an item that is
  // a std::tuple becomes several arguments). Results come in submission order. An lvalue range must
  // outlive the returned range; an rvalue range is moved into it.
  template <typename Result, typename Inputs>
  auto map(const std::string& name, Inputs&& inputs, const JobOptions& options = {}) {
    return collect<Result>(name, std::forward<Inputs>(inputs), options, Order::submission);
  }
  // As map, but results come in completion order: `iterator.sequence()` tells which input a result
  // belongs to.
  template <typename Result, typename Inputs>
  auto as_completed(const std::string& name, Inputs&& inputs, const JobOptions& options = {}) {
    return collect<Result>(name, std::forward<Inputs>(inputs), options, Order::completion);
  }

  // Puts `content` into the pool, once: the handle is an argument of any number of tasks. Content
  // that is there already costs its digest (0.1 ms per MB). The pool keeps it as long as the handle
  // or a task that uses it lives. Blocks while it is copied, and while there is no room for it
  // (await_blob_room); throws Error out_of_space.
  Blob scatter(std::span<const std::byte> content);
  // The same, but returns no blob when there was no room for it within `timeout`.
  Blob scatter(std::span<const std::byte> content, std::chrono::nanoseconds timeout);
  template <typename Range,
            typename Value = std::remove_cvref_t<decltype(*std::data(std::declval<Range>()))>>
  Blob scatter(const Range& values) {
    static_assert(std::is_trivially_copyable_v<Value>, "only plain values can be shared in place");
    return scatter(std::as_bytes(std::span(std::data(values), std::size(values))));
  }
  // A part of a file of yours, which stays where it is. Tasks on this machine map it; tasks on
  // other machines get its content. It must not change while tasks use it. Throws Error invalid if
  // it does not exist.
  Blob scatter_file(const std::string& path, std::uint64_t offset = 0,
                    std::uint64_t size_bytes = std::numeric_limits<std::uint64_t>::max());
  // The content of a file as it is now. It is copied, so the file may change afterwards. Blocks
  // and throws as scatter(); throws Error invalid if the file cannot be read.
  Blob scatter_copy(const std::string& path);
  // Whether this producer shares folders with its broker. If not, there are no blobs: scatter()
  // throws Error unusable, and everything travels inside messages (up to 1 GiB).
  bool has_blobs() const;
  // Waits until tasks that ended have made room for `size_bytes` more; false: `timeout` passed
  // first. Throws Error out_of_space when only handles could make room.
  bool await_blob_room(std::uint64_t size_bytes, std::chrono::nanoseconds timeout);

  // Asks the broker. Blocks up to `timeout`; throws Error wait_timed_out or disconnected.
  PoolStatus status(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  // Blocks until `slots` slots are connected, at most `timeout`; false: fewer are.
  bool wait_for_slots(std::uint32_t slots, std::chrono::milliseconds timeout);
  // Slots of the pool as the broker said last; follows workers that come and go. Never blocks.
  std::uint32_t total_slots() const;
  // Has the broker bring up the hosts of a hosts file (docs/hosts.md); those that are up stay as
  // they are. `origin` as Options::hosts_origin. Blocks until the broker has accepted them, not
  // until they are up: status() shows how it goes. A broker that is started again is asked again.
  // Returns the names of the nodes. Throws Error invalid, with LINE:COLUMN, if the text is wrong;
  // also disconnected and refused.
  std::vector<std::string> up(const std::string& hosts, const std::string& origin);
  // Has the broker end the workers and tunnels of these nodes (none named: of all), and then
  // itself, if asked to. Blocks until it has accepted that; returns the nodes' names. Throws Error
  // invalid (a name is unknown), disconnected or refused.
  std::vector<std::string> down(const std::vector<std::string>& names, bool end_broker = false);
  // What tasks printed, logged and warned. Blocks until there is a line, `timeout` has passed, or
  // the producer ends; in the last two cases it returns nothing. At most 10,000 lines wait; beyond
  // that the oldest are dropped and counted.
  std::vector<OutputLine> next_output(std::chrono::nanoseconds timeout);
  // Lets tasks of this producer use the store of computed values of that name. The broker refuses
  // them every other store. Call it before the first such task; ask() does the same. Never blocks.
  void use_store(const std::string& name);
  // Asks the pool's stores of computed values. `claimant`: any number but 0 that stands for one
  // thread of this program. Never blocks; the answer may take as long as another's computation.
  std::unique_ptr<PendingReply> ask(std::uint64_t claimant, StoreQuestion question);
  // The endpoint in use, to hand to other programs.
  const std::string& endpoint() const;

 private:
  template <typename Result, typename Inputs>
  auto collect(const std::string& name, Inputs&& inputs, const JobOptions& options, Order order) {
    if constexpr (std::is_lvalue_reference_v<Inputs>) {
      return Results<Result, std::remove_reference_t<Inputs>*>(
          stream({name, false}, options, order), &inputs);
    } else {
      return Results<Result, std::remove_reference_t<Inputs>>(stream({name, false}, options, order),
                                                              std::forward<Inputs>(inputs));
    }
  }
  std::unique_ptr<detail::ProducerState> state_;
};

}  // namespace muster
