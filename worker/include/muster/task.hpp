// Code that runs on workers: plug-in libraries with native functions. The public face for task
// code; header-only, everything here is installed.
//
//   #include <muster/task.hpp>
//   MUSTER_PLUGIN(registry) {
//     registry.add("square", [](std::int64_t x) { return x * x; });
//   }
//
// Build it as a shared library and name it to the worker: `muster-worker --plugin ./libtasks.so`.
//
// Threads: with the thread executor a function is called on as many threads at once as the worker
// has slots, inside the worker daemon: no isolation, a crash ends the daemon. With the process
// executor each slot is a process of its own.
// Large data: a parameter of type `const muster::Blob&` is what the producer scattered: all tasks
// of a node see the same pages. A result of type Blob (TaskContext::make_blob) goes back the same
// way. Errors: an exception becomes the task's error outcome with its what(). Arguments of another
// number or type than the function takes become an error outcome of kind "bad_arguments".
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <muster/pack.hpp>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace muster {

// What a running task may ask of its worker. Valid only during the call.
class TaskContext {
 public:
  // What the worker keeps for one call.
  class Host {
   public:
    virtual ~Host() = default;
    virtual std::span<const Blob> blobs() const = 0;
    virtual Blob make_blob(std::span<const std::byte> content) = 0;
    virtual Blob attach(const Blob& blob) = 0;
  };

  TaskContext(std::uint32_t attempt, const std::atomic<bool>& stop, Host& host)
      : attempt_(attempt), stop_(stop), host_(host) {}
  // 0 for the first lease of this task; more after a loss or a retry.
  std::uint32_t attempt() const { return attempt_; }
  // True once the task was cancelled or timed out: a long task on a thread slot should return then,
  // because a thread cannot be killed and its slot stays taken until it does.
  bool stop_requested() const { return stop_.load(std::memory_order_relaxed); }
  // A copy of plain values that the result may hold, or be: its bytes do not pass through the
  // result's own. Blocks on output; throws BlobError when there is no room.
  template <typename Range>
  Blob make_blob(const Range& values) const {
    const std::span view(values);
    static_assert(std::is_trivially_copyable_v<typename decltype(view)::value_type>,
                  "a blob holds plain values");
    return host_.make_blob(std::as_bytes(view));
  }
  // For RawFunctions: the blobs that came with the payload, in order; and one more that belongs to
  // the result, which is to name what is returned: the blob, or a copy of one that was an argument.
  std::span<const Blob> blobs() const { return host_.blobs(); }
  Blob attach(const Blob& blob) const { return host_.attach(blob); }

 private:
  std::uint32_t attempt_;
  const std::atomic<bool>& stop_;
  Host& host_;
};

// Bytes in, bytes out. The payload shares the received memory; return it or a slice of it freely.
using RawFunction = std::function<Bytes(const Bytes& payload, const TaskContext& context)>;

// The arguments do not fit the function. RawFunctions may throw it too.
using BadArguments = PackError;

namespace task_detail {

template <typename... Items>
struct List {};

template <typename Function>
struct Signature : Signature<decltype(&Function::operator())> {};
template <typename Result, typename... Items>
struct Signature<Result (*)(Items...)> {
  using Arguments = List<std::decay_t<Items>...>;
};
template <typename Class, typename Result, typename... Items>
struct Signature<Result (Class::*)(Items...) const> {
  using Arguments = List<std::decay_t<Items>...>;
};
template <typename Class, typename Result, typename... Items>
struct Signature<Result (Class::*)(Items...)> {
  using Arguments = List<std::decay_t<Items>...>;
};

// Blobs of the result belong to the outcome.
class AttachBlobs final : public pack_detail::BlobSink {
 public:
  explicit AttachBlobs(const TaskContext& context) : context_(context) {}
  Blob take(const Blob& blob) override { return context_.attach(blob); }

 private:
  const TaskContext& context_;
};

template <typename Call>
Bytes result_of(const TaskContext& context, Call&& call) {
  thread_local BytesArena arena;
  if constexpr (std::is_void_v<decltype(call())>) {
    call();
    return pack_value(arena, Nothing());
  } else {
    const auto result = call();
    AttachBlobs sink(context);
    const pack_detail::WithBlobScope scope({&sink, {}});
    return pack_value(arena, result);
  }
}

template <typename Function, typename... Items>
RawFunction adapt(Function function, List<TaskContext, Items...>) {
  return [function](const Bytes& payload, const TaskContext& context) {
    auto arguments = unpack_arguments<Items...>(payload, context.blobs());
    return result_of(context, [&] {
      return std::apply([&](auto&&... items) { return function(context, std::move(items)...); },
                        std::move(arguments));
    });
  };
}
template <typename Function, typename... Items>
RawFunction adapt(Function function, List<Items...>) {
  return [function](const Bytes& payload, const TaskContext& context) {
    auto arguments = unpack_arguments<Items...>(payload, context.blobs());
    return result_of(context, [&] {
      return std::apply([&](auto&&... items) { return function(std::move(items)...); },
                        std::move(arguments));
    });
  };
}

}  // namespace task_detail

// Receives a plug-in's functions. Implemented by the worker and the runner.
class Registry {
 public:
  virtual ~Registry() = default;
  // Offers `function` under `name` (1-512 bytes). A name that is taken is an error at start.
  virtual void add_raw(std::string name, RawFunction function) = 0;

  // Offers a typed function: arguments and result travel as msgpack. A first parameter of type
  // `const TaskContext&` is filled in and does not count as an argument.
  template <typename Function>
  void add(const std::string& name, Function function) {
    using Arguments = typename task_detail::Signature<Function>::Arguments;
    add_raw(name, task_detail::adapt(std::move(function), Arguments{}));
  }
};

}  // namespace muster

// The version in the symbol's name changes when Registry or TaskContext does: an old plug-in is
// refused with a clear error instead of crashing.
#define MUSTER_PLUGIN_SYMBOL "muster_plugin_v2"
#define MUSTER_PLUGIN(registry)                                            \
  extern "C" __attribute__((visibility("default"))) void muster_plugin_v2( \
      ::muster::Registry& registry)  // NOLINT(bugprone-macro-parentheses): a parameter's name
