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
// Errors: an exception becomes the task's error outcome with its what(). Arguments of another
// number or type than the function takes become an error outcome of kind "bad_arguments".
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <muster/bytes.hpp>
#include <muster/pack.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace muster {

// What a running task may ask. Valid during the call only.
class TaskContext {
 public:
  TaskContext(std::uint32_t attempt, const std::atomic<bool>& stop)
      : attempt_(attempt), stop_(stop) {}
  // 0 for the first lease of this task; more after a loss or a retry.
  std::uint32_t attempt() const { return attempt_; }
  // True once the task was cancelled or timed out: a long task on a thread slot should return then,
  // because a thread cannot be killed and its slot stays taken until it does.
  bool stop_requested() const { return stop_.load(std::memory_order_relaxed); }

 private:
  std::uint32_t attempt_;
  const std::atomic<bool>& stop_;
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

template <typename Call>
Bytes result_of(Call&& call) {
  thread_local BytesArena arena;
  if constexpr (std::is_void_v<decltype(call())>) {
    call();
    return pack_value(arena, Nothing());
  } else {
    return pack_value(arena, call());
  }
}

template <typename Function, typename... Items>
RawFunction adapt(Function function, List<TaskContext, Items...>) {
  return [function](const Bytes& payload, const TaskContext& context) {
    auto arguments = unpack_arguments<Items...>(payload);
    return result_of([&] {
      return std::apply([&](auto&&... items) { return function(context, std::move(items)...); },
                        std::move(arguments));
    });
  };
}
template <typename Function, typename... Items>
RawFunction adapt(Function function, List<Items...>) {
  return [function](const Bytes& payload, const TaskContext&) {
    auto arguments = unpack_arguments<Items...>(payload);
    return result_of([&] {
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

// The version in the symbol's name changes when Registry changes: an old plug-in is refused with a
// clear error instead of crashing.
#define MUSTER_PLUGIN_SYMBOL "muster_plugin_v1"
#define MUSTER_PLUGIN(registry)                                            \
  extern "C" __attribute__((visibility("default"))) void muster_plugin_v1( \
      ::muster::Registry& registry)  // NOLINT(bugprone-macro-parentheses): a parameter's name
