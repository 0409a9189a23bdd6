// The producer: submits tasks to a pool and collects their outcomes. The public face for
// applications; everything here is installed.
//
//   muster::Producer producer;                                     // embedded pool on this machine
//   auto future = producer.submit<double>("simulate", 42, 0.1);    // one task
//   for (double r : producer.map<double>("score", items)) use(r);  // many, in submission order
//
// Owner: the application. A Producer owns one background thread, one connection to the broker and,
// when it started one, the embedded pool; its destructor cancels what has no outcome yet.
// Threads: a Producer, its Jobs and Futures may be used from any threads at once. One Results or
// Stream belongs to one thread at a time. Do not fork a process that has a Producer.
// Blocking: only get(), wait_for(), iteration over Results, next() of a Stream or Channel,
// status(), wait_for_slots(), next_output() and the constructor block, each at most as long as its
// comment says.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <iterator>
#include <memory>
#include <muster/bytes.hpp>
#include <muster/outcome.hpp>
#include <muster/pack.hpp>
#include <muster/store.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#define MUSTER_API __attribute__((visibility("default")))

namespace muster {

enum class Executor { thread, process };

struct Options {
  // Where the broker listens, "ipc:///path". Empty: what the environment variable MUSTER_BROKER
  // names; if it is not set, your running broker (`muster up` starts it), unless an option below
  // shapes an embedded pool; else an embedded pool: private broker and workers on this machine.
  std::string endpoint = {};
  // Shown in `muster status`. Empty: program name and process id.
  std::string label = {};

  // --- Embedded pool only ---
  bool embedded = false;                  // true: whatever MUSTER_BROKER says and whichever runs
  unsigned workers = 1;                   // nodes on this machine, 256 at most; 0: only `hosts`
  unsigned slots = 0;                     // of each worker; 0: the number of processors
  Executor executor = Executor::thread;   // process: a crash of a task harms nothing else
  std::vector<std::string> plugins = {};  // paths of plug-in libraries; `hosts` get them, too
  // Runs python functions with this interpreter, of this version ("3.11"); empty: it does not.
  std::string python = {};
  std::string python_version = {};
  // Added to the environment of the broker and the workers.
  std::vector<std::pair<std::string, std::string>> environment = {};
  // The folder of muster-broker and muster-worker. Empty: they are looked for (docs/producer.md).
  std::string programs = {};
  // Machines that the pool reaches by ssh, too: the text of a hosts file (docs/hosts.md), and its
  // name for messages. Relative paths in it count from the folder of an absolute `hosts_origin`.
  std::string hosts = {};
  std::string hosts_origin = {};
  // false: the constructor does not wait for these machines; status() shows how far they are.
  bool await_hosts = true;

  // --- Waiting ---
  // How long the constructor waits for the broker's WELCOME, and for an embedded pool's workers:
  // all on this machine; with `hosts` and none there, the first on any of them.
  std::chrono::milliseconds connect_timeout{10'000};
  // A broker that is silent for longer ends every wait with ErrorCode::disconnected. Shorter
  // silences (a restart, a network break) pass unseen: what was in flight is resent.
  std::chrono::milliseconds broker_timeout{30'000};
};

// The broker of a producer that names none: what MUSTER_BROKER names (it may be empty: an embedded
// pool is wanted); if it is not set, your running broker; else empty.
MUSTER_API std::string default_endpoint();

struct JobOptions {
  std::chrono::milliseconds timeout{0};  // per task, from its start on a slot; 0: none
  std::uint32_t retries = 0;             // runs again after an error or time-out, this many times
  std::int32_t priority = 0;             // higher runs first
  std::uint32_t crash_budget = 3;        // losses while running before the task ends as lost
  // At most this many tasks of the job run (or wait on a worker) at once; 0: as the pool has slots.
  std::uint32_t max_running = 0;
  // What one task takes; a task that needs more than a slot's share of its worker's cores or memory
  // takes as many slots as cover it (docs/producer.md). Outcomes of kind "no_worker" end tasks that
  // fit nowhere, "out_of_memory" those that use more memory than this.
  double cpus = 0;                       // cores, in thousandths at the finest; 0: one slot's share
  std::uint64_t memory_bytes = 0;        // limit and reservation; 0: no limit of its own
  std::uint32_t gpus = 0;                // named to the task by CUDA_VISIBLE_DEVICES
  std::vector<std::string> labels = {};  // only workers that have all of these
  bool forward_output = false;  // what the tasks print and log comes to Producer::next_output()
  // map and Stream: at most this many tasks between the oldest missing and the newest submitted.
  std::size_t window = 16'384;
  std::size_t window_bytes = std::size_t{256} << 20;  // ... and at most this many payload bytes
};

enum class Order { submission, completion };

namespace detail {
struct ProducerState;  // the connection, its thread and the embedded pool
struct Call;           // one future's shared state
struct StreamState;
struct ChannelState;
struct JobState;
}  // namespace detail

// The outcome of one task, some time. Copyable; copies share the outcome.
class MUSTER_API RawFuture {
 public:
  RawFuture() = default;
  explicit RawFuture(std::shared_ptr<detail::Call> call) : call_(std::move(call)) {}

  // The result's bytes. Blocks until the outcome is there; throws Error if there is none (see
  // ErrorCode), at the latest Options::broker_timeout after the broker fell silent.
  Bytes get() const;
  // The same, but throws ErrorCode::wait_timed_out after `timeout`; the task goes on.
  Bytes get(std::chrono::nanoseconds timeout) const;
  // Blocks up to `timeout`; true when the outcome is there.
  bool wait_for(std::chrono::nanoseconds timeout) const;
  bool ready() const;
  // Asks to end the task. Its outcome then is cancelled, unless it finished first.
  void cancel() const;
  std::uint64_t sequence() const;

 private:
  std::shared_ptr<detail::Call> call_;
};

template <typename Result>
class Future {
 public:
  Future() = default;
  explicit Future(RawFuture raw) : raw_(std::move(raw)) {}
  // As RawFuture; throws PackError when the result is of another type than `Result`.
  Result get() const { return unpack_value<Result>(raw_.get()); }
  Result get(std::chrono::nanoseconds timeout) const {
    return unpack_value<Result>(raw_.get(timeout));
  }
  bool wait_for(std::chrono::nanoseconds timeout) const { return raw_.wait_for(timeout); }
  bool ready() const { return raw_.ready(); }
  void cancel() const { raw_.cancel(); }
  std::uint64_t sequence() const { return raw_.sequence(); }
  const RawFuture& raw() const { return raw_; }

 private:
  RawFuture raw_;
};

// What a task runs: a native function of a plug-in, a command, or a Python callable.
struct FunctionName {
  std::string name;
  bool command = false;
  std::string python = {};  // not empty: a callable for this interpreter ("3.11"); `name` labels it
  Bytes body = {};          // the pickled callable, which gets each payload
};

// One entry of a stream. `error` is set when there is no result; `result` is then empty.
struct StreamItem {
  std::uint64_t sequence = 0;
  Bytes result;
  std::optional<Error> error;
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
  // Adds a task; returns its sequence. Never blocks; sent at the latest when next() is called.
  std::uint64_t push(Bytes payload);
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
  std::uint64_t pushed() const;
  std::uint64_t returned() const;
  // Why the broker says the job waits ("no worker is connected ..."); empty while it does not.
  std::string waiting_reason() const;

 private:
  std::shared_ptr<detail::StreamState> state_;
};

// One outcome out of a Channel. `error` is set when there is no result; `result` is then empty.
struct ChannelItem {
  std::uint32_t job = 0;
  std::uint64_t sequence = 0;
  Bytes result;
  std::optional<Error> error;
};

// Many jobs whose outcomes all come out of one place, in completion order: for event loops and
// other languages. No window: whoever pushes bounds what is under way.
// Threads: any, all functions. Destroying it cancels what has no outcome yet.
class MUSTER_API Channel {
 public:
  explicit Channel(std::shared_ptr<detail::ChannelState> state);
  Channel(Channel&&) noexcept;
  Channel& operator=(Channel&&) noexcept;
  ~Channel();

  // Opens a job; its number names it in the other calls.
  std::uint32_t open(FunctionName function, const JobOptions& options = {});
  // Adds a task; returns its sequence, counted from 0. Never blocks. Throws Error invalid when the
  // job is not open, and what ended it when the connection failed.
  std::uint64_t push(std::uint32_t job, Bytes payload);
  // Ends a task, or all of the job; their outcomes still arrive, as cancelled.
  void cancel(std::uint32_t job, std::optional<std::uint64_t> sequence = {});
  // No more pushes; the job is forgotten after its last outcome.
  void close(std::uint32_t job);
  // Cancels what is left of the job; no outcome of it arrives from now on.
  void drop(std::uint32_t job);
  // What came out: blocks until there is something, `timeout` passed or wake() was called (then it
  // is empty). At most `most` items, at least 1. Throws Error disconnected or refused, after what
  // had arrived: nothing more comes of the jobs that were open then. Jobs opened later work.
  std::vector<ChannelItem> next(std::chrono::nanoseconds timeout, std::size_t most = 1024);
  void wake();  // ends one next(): the one that waits, or else the following
  // As Stream::waiting_reason().
  std::string waiting_reason(std::uint32_t job) const;

 private:
  std::shared_ptr<detail::ChannelState> state_;
};

// A lazy range of results over a lazy range of inputs: iterating pulls inputs, keeps the window
// full and blocks for the next result. A failed task throws its Error from `++` or begin(); the
// iteration can then go on with the next task. Destroying it cancels the rest.
template <typename Result, typename Inputs>
class Results {
 public:
  Results(Stream stream, Inputs inputs) : stream_(std::move(stream)), inputs_(std::move(inputs)) {}
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  struct Sentinel {};
  class Iterator {
   public:
    using value_type = Result;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    explicit Iterator(Results* results) : results_(results) {}
    const Result& operator*() const { return *results_->current_; }
    // The position of the current result's input, counted from 0.
    std::uint64_t sequence() const { return results_->sequence_; }
    Iterator& operator++() {
      results_->advance();
      return *this;
    }
    void operator++(int) { results_->advance(); }
    friend bool operator==(const Iterator& iterator, Sentinel) {
      return iterator.results_->finished();
    }

   private:
    Results* results_;
  };

  Iterator begin() {
    if (!started_) {
      position_.emplace(std::begin(deref(inputs_)));
      started_ = true;
      advance();
    }
    return Iterator(this);
  }
  Sentinel end() const { return {}; }
  void cancel() { stream_.cancel(); }
  bool finished() const { return !current_.has_value(); }

 private:
  template <typename T>
  static T& deref(T& value) {
    return value;
  }
  template <typename T>
  static T& deref(T*& pointer) {
    return *pointer;
  }
  using Range = std::remove_pointer_t<Inputs>;

  void fill() {
    auto last = std::end(deref(inputs_));
    while (!closed_ && stream_.has_room()) {
      if (*position_ == last) {
        closed_ = true;
        stream_.close();
        return;
      }
      stream_.push(pack_call(arena_, **position_));
      ++*position_;
    }
  }
  template <typename Input>
  static Bytes pack_call(BytesArena& arena, const Input& input) {
    return pack_arguments(arena, input);
  }
  template <typename... Parts>
  static Bytes pack_call(BytesArena& arena, const std::tuple<Parts...>& parts) {
    return std::apply([&](const auto&... items) { return pack_arguments(arena, items...); }, parts);
  }
  void advance() {
    current_.reset();
    fill();
    std::optional<StreamItem> item = stream_.next();
    if (!item) return;
    sequence_ = item->sequence;
    if (item->error) throw *item->error;
    current_.emplace(unpack_value<Result>(item->result));
  }

  Stream stream_;
  Inputs inputs_;
  std::optional<decltype(std::begin(std::declval<Range&>()))> position_;
  std::optional<Result> current_;
  std::uint64_t sequence_ = 0;
  BytesArena arena_;
  bool started_ = false;
  bool closed_ = false;
};

// A job of single submits that share a function and options. Copyable handle.
class MUSTER_API Job {
 public:
  explicit Job(std::shared_ptr<detail::JobState> state) : state_(std::move(state)) {}
  RawFuture submit_raw(Bytes payload);
  template <typename Result, typename... Arguments>
  Future<Result> submit(const Arguments&... arguments) {
    thread_local BytesArena arena;
    return Future<Result>(submit_raw(pack_arguments(arena, arguments...)));
  }
  // Ends every task of the job that has no outcome.
  void cancel();

 private:
  std::shared_ptr<detail::JobState> state_;
};

// A picture of the pool; what `muster status` shows.
struct PoolStatus {
  std::string json;  // the whole status as a JSON object (docs/protocol.md, "STATUS")
  std::uint32_t total_slots = 0;
  std::uint32_t workers = 0;
};

// One line that a task said on a worker (JobOptions::forward_output).
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
  // Ends the session: what has no outcome is cancelled; an embedded pool ends. Blocks at most
  // about two seconds, with machines reached by ssh five.
  ~Producer();
  Producer(const Producer&) = delete;
  Producer& operator=(const Producer&) = delete;

  // One task of the native function `name`. Never blocks. All such submits with the default options
  // form one job per function; a python function is a job of its own each time.
  template <typename Result, typename... Arguments>
  Future<Result> submit(const std::string& name, const Arguments&... arguments) {
    thread_local BytesArena arena;
    return Future<Result>(submit_raw({name, false}, pack_arguments(arena, arguments...)));
  }
  RawFuture submit_raw(const FunctionName& function, Bytes payload);

  Job job(FunctionName function, const JobOptions& options = {});
  Stream stream(FunctionName function, const JobOptions& options = {},
                Order order = Order::submission);
  Channel channel();

  // Applies the native function `name` to every item of `inputs` (any input range; an item that is
  // a std::tuple becomes several arguments). Results come in submission order. An lvalue range must
  // outlive the returned range; an rvalue range is moved into it.
  template <typename Result, typename Inputs>
  auto map(const std::string& name, Inputs&& inputs, const JobOptions& options = {}) {
    return collect<Result>(name, std::forward<Inputs>(inputs), options, Order::submission);
  }
  // As map, in completion order; `iterator.sequence()` tells which input a result belongs to.
  template <typename Result, typename Inputs>
  auto as_completed(const std::string& name, Inputs&& inputs, const JobOptions& options = {}) {
    return collect<Result>(name, std::forward<Inputs>(inputs), options, Order::completion);
  }

  // Asks the broker; blocks up to `timeout`; throws Error wait_timed_out or disconnected.
  PoolStatus status(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  // Blocks until `slots` slots are connected, at most `timeout`; false: fewer are.
  bool wait_for_slots(std::uint32_t slots, std::chrono::milliseconds timeout);
  // Slots of the pool as the broker said last; follows workers that come and go. Never blocks.
  std::uint32_t total_slots() const;
  // Has the broker bring up the hosts of a hosts file (docs/hosts.md); those that are up stay as
  // they are. `origin` as Options::hosts_origin. Blocks until the broker has accepted them, not
  // until they are up: status() shows how it goes. A broker that is started anew is asked again.
  // Returns the nodes' names.
  // Throws Error invalid with LINE:COLUMN when the text is wrong, disconnected, or refused.
  std::vector<std::string> up(const std::string& hosts, const std::string& origin);
  // Has the broker end the workers and tunnels of these nodes (none named: of all), and then
  // itself, if asked to. Blocks until it has accepted that; returns the nodes' names. Throws Error
  // invalid (a name is unknown), disconnected or refused.
  std::vector<std::string> down(const std::vector<std::string>& names, bool end_broker = false);
  // What tasks said: blocks until there is something, `timeout` passed or the producer ends (then
  // it is empty). At most 10,000 lines wait; beyond that the oldest are dropped and counted.
  std::vector<OutputLine> next_output(std::chrono::nanoseconds timeout);
  // Asks the pool's stores of computed values. `claimant`: any number but 0 that stands for one
  // thread of this program. Never blocks; the answer may take as long as another's computation. The
  // future throws Error disconnected or refused, std::future_error when the producer ends.
  std::future<StoreReply> ask(std::uint64_t claimant, StoreQuestion question);
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
