#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <muster/producer.hpp>
#include <muster/shared.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "python/native/convert.hpp"
#include "python/native/session.hpp"
#include "python/native/store_binding.hpp"

namespace muster::python {

namespace py = pybind11;

namespace {

using Clock = std::chrono::steady_clock;

// Signal handlers and close() wait at most this long for a thread that waits.
constexpr std::chrono::milliseconds kSlice{100};
// Each slice asks the broker anew, so it must leave a busy one time to answer.
constexpr std::chrono::milliseconds kStatusSlice{500};

// Deleting a producer joins its threads: without the GIL, for whoever needs it meanwhile.
struct Unlocked {
  void operator()(Session* session) const {
    const py::gil_scoped_release unlocked;
    delete session;
  }
};
using Owned = std::shared_ptr<Session>;

// The sessions that may live, for the end of the interpreter. The GIL guards it.
std::vector<std::weak_ptr<Session>>& sessions() {
  static std::vector<std::weak_ptr<Session>> all;
  return all;
}

// Before the interpreter ends: a thread that came back from a wait after that would take the
// process down, so no wait may be left.
void close_all() {
  for (const std::weak_ptr<Session>& known : std::exchange(sessions(), {})) {
    const Owned session = known.lock();
    if (!session) continue;
    const py::gil_scoped_release unlocked;
    session->close();
  }
}

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::ceil<std::chrono::milliseconds>(to_duration(seconds));
}

// Python's signal handlers run here: Ctrl-C ends a wait with KeyboardInterrupt.
void check_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// One wait in slices. `attempt(native, slice)` runs without the GIL and returns an optional: empty
// when the slice passed in vain. So does `wait` after `timeout`.
template <typename Attempt>
auto wait(Session& session, std::optional<double> timeout, std::chrono::nanoseconds slice,
          const Attempt& attempt) {
  std::optional<Clock::time_point> deadline;
  if (timeout) deadline = Clock::now() + to_duration(*timeout);
  while (true) {
    if (deadline) {
      slice = std::clamp<std::chrono::nanoseconds>(*deadline - Clock::now(), {}, slice);
    }
    auto found = session.use([&](Native& native) {
      const py::gil_scoped_release unlocked;
      return attempt(native, slice);
    });
    if (found) return found;  // what was taken must not be lost to an interrupt
    check_signals();
    if (deadline && Clock::now() >= *deadline) return found;
  }
}

// Connecting cannot be interrupted: it goes on in a thread of its own when Ctrl-C ends the wait.
std::unique_ptr<Native> connect(Options options) {
  std::packaged_task<std::unique_ptr<Native>()> task(
      [options = std::move(options)] { return std::make_unique<Native>(options); });
  std::future<std::unique_ptr<Native>> connected = task.get_future();
  std::thread(std::move(task)).detach();
  while (true) {
    std::future_status state;
    {
      const py::gil_scoped_release unlocked;
      state = connected.wait_for(kSlice);
    }
    if (state == std::future_status::ready) return connected.get();
    check_signals();
  }
}

Owned make(const py::str& endpoint, const py::str& label, bool embedded, unsigned workers,
           unsigned slots, const std::string& executor, const py::str& python,
           const py::str& python_version, const py::dict& environment, const py::str& spool,
           const py::str& programs, double connect_timeout, double broker_timeout) {
  Options options;
  options.endpoint = to_text(endpoint);
  options.label = to_text(label);
  options.embedded = embedded;
  options.workers = workers;
  options.slots = slots;
  if (executor != "process" && executor != "thread") {
    throw Error(ErrorCode::invalid, "invalid",
                "the executor is \"process\" or \"thread\", not \"" + executor + '"');
  }
  options.executor = executor == "process" ? Executor::process : Executor::thread;
  options.python = to_text(python);
  options.python_version = to_text(python_version);
  for (const auto& [name, value] : environment) {
    options.environment.emplace_back(to_text(py::str(name)), to_text(py::str(value)));
  }
  options.spool = to_text(spool);
  options.programs = to_text(programs);
  options.connect_timeout = milliseconds(connect_timeout);
  if (broker_timeout > 0) options.broker_timeout = milliseconds(broker_timeout);
  Owned session(new Session(connect(std::move(options))), Unlocked());
  std::erase_if(sessions(), [](const auto& known) { return known.expired(); });
  sessions().push_back(session);
  return session;
}

py::tuple to_tuple(const ChannelOutcome& outcome) {
  if (outcome.error) {
    return py::make_tuple(outcome.job, outcome.sequence, py::none(), failure(*outcome.error));
  }
  py::object result =
      outcome.is_blob ? py::cast(Buffer(outcome.result, false, true)) : to_python(outcome.result);
  if (!outcome.blobs.empty()) result = py::make_tuple(result, to_python(outcome.blobs));
  return py::make_tuple(outcome.job, outcome.sequence, result, py::none());
}

py::tuple to_tuple(const OutputLine& line) {
  return py::make_tuple(line.job, line.sequence, to_python(line.node), static_cast<int>(line.kind),
                        line.level, to_python(line.name), to_python(line.text), line.dropped);
}

template <typename Values>
py::list to_list(const std::optional<Values>& values) {
  py::list result;
  if (!values) return result;
  for (const auto& value : *values) result.append(to_tuple(value));
  return result;
}

py::list next_outcomes(Session& session, std::optional<double> timeout, std::size_t most) {
  return to_list(
      wait(session, timeout, kSlice, [&](Native& native, std::chrono::nanoseconds slice) {
        std::optional<std::vector<ChannelOutcome>> outcomes = native.channel.next(slice, most);
        // A wake that came while nobody waited ends the next wait.
        if (outcomes->empty() && !session.take_wake()) outcomes.reset();
        return outcomes;
      }));
}

py::list next_output(Session& session, double timeout) {
  if (session.closed()) return py::list();
  return to_list(
      wait(session, timeout, kSlice, [&](Native& native, std::chrono::nanoseconds slice) {
        std::optional<std::vector<OutputLine>> lines = native.producer.next_output(slice);
        if (lines->empty() && !session.closed()) lines.reset();
        return lines;
      }));
}

py::str status(Session& session, double timeout) {
  const auto found =
      wait(session, timeout, kStatusSlice, [](Native& native, std::chrono::nanoseconds slice) {
        try {
          return std::optional(
              native.producer.status(std::chrono::ceil<std::chrono::milliseconds>(slice)).json);
        } catch (const Error& error) {
          if (error.code() != ErrorCode::wait_timed_out) throw;
          return std::optional<std::string>();
        }
      });
  if (!found) {
    throw Error(ErrorCode::wait_timed_out, "wait_timed_out", "the broker did not answer in time");
  }
  return to_python(*found);
}

bool wait_for_slots(Session& session, std::uint32_t slots, double timeout) {
  return wait(session, timeout, kSlice,
              [slots](Native& native, std::chrono::nanoseconds slice) -> std::optional<bool> {
                const auto rounded = std::chrono::ceil<std::chrono::milliseconds>(slice);
                if (native.producer.wait_for_slots(slots, rounded)) return true;
                return std::nullopt;
              })
      .has_value();
}

void up(Session& session, const py::str& hosts, const py::str& origin) {
  const std::string text = to_text(hosts);
  const std::string name = to_text(origin);
  session.use([&](Native& native) {
    const py::gil_scoped_release unlocked;
    native.producer.up(text, name);
  });
}

std::uint32_t open_job(Session& session, const py::str& label, const py::str& python,
                       const py::object& body, const py::iterable& blobs, double timeout,
                       std::uint32_t retries, std::int32_t priority, std::uint32_t crash_budget,
                       std::uint32_t max_running, double cpus, std::uint64_t memory_bytes,
                       std::uint32_t gpus, const std::vector<std::string>& labels,
                       bool forward_output, bool counts_results) {
  FunctionName function{to_text(label), false, to_text(python), to_bytes(body), to_blobs(blobs)};
  JobOptions options;
  options.timeout = milliseconds(timeout);
  options.retries = retries;
  options.priority = priority;
  options.crash_budget = crash_budget;
  options.max_running = max_running;
  options.cpus = cpus;
  options.memory_bytes = memory_bytes;
  options.gpus = gpus;
  options.labels = labels;
  options.forward_output = forward_output;
  return session.use([&](Native& native) {
    const py::gil_scoped_release unlocked;
    return native.channel.open(
        function, options,
        counts_results ? ResultsCount::until_consumed : ResultsCount::until_taken);
  });
}

// Runs `function` on the channel without the GIL.
template <typename Function>
auto on_channel(Session& session, const Function& function) {
  return session.use([&](Native& native) {
    const py::gil_scoped_release unlocked;
    return function(native.channel);
  });
}

bool has_blobs(Session& session) {
  return session.use([](Native& native) { return native.producer.has_blobs(); });
}

// Room for blobs comes as tasks end; Ctrl-C ends the wait.
void await_room(Session& session, std::uint64_t size_bytes) {
  if (!has_blobs(session)) return;
  wait(session, std::nullopt, kSlice,
       [size_bytes](Native& native, std::chrono::nanoseconds slice) -> std::optional<bool> {
         if (native.producer.await_blob_room(size_bytes, slice)) return true;
         return std::nullopt;
       });
}

std::uint64_t push(Session& session, std::uint32_t job, const py::object& payload,
                   const py::iterable& blobs) {
  Bytes bytes = to_bytes(payload);
  const std::vector<Blob> named = to_blobs(blobs);
  if (bytes.size() <= shared_limits().body_bytes) {
    return session.use(
        [&](Native& native) { return native.channel.push(job, std::move(bytes), named); });
  }
  await_room(session, bytes.size());
  return session.use([&](Native& native) {
    const py::gil_scoped_release unlocked;
    return native.channel.push(job, std::move(bytes), named);
  });
}

py::object scatter(Session& session, const py::object& data, double timeout) {
  const View view(data);
  const auto blob =
      wait(session, timeout, kSlice,
           [&](Native& native, std::chrono::nanoseconds slice) -> std::optional<Blob> {
             Blob put = native.producer.scatter(view.span(), slice);
             if (!put) return std::nullopt;
             return put;
           });
  return blob ? to_python(*blob) : py::none();
}

py::object scatter_file(Session& session, const py::str& path, std::uint64_t offset,
                        std::uint64_t size) {
  const std::string name = py::module_::import("os").attr("fsencode")(path).cast<py::bytes>();
  return to_python(session.use([&](Native& native) {
    const py::gil_scoped_release unlocked;
    return native.producer.scatter_file(name, offset, size);
  }));
}

void use_store(Session& session, const py::str& store) {
  session.use([&](Native& native) { native.producer.use_store(to_text(store)); });
}

py::object ask(Session& session, std::uint64_t claimant, int operation, const py::str& store,
               const py::str& key, const py::kwargs& fields) {
  StoreQuestion question = store_question(operation, store, key, fields);
  return store_asked(session.use(
      [&](Native& native) { return native.producer.ask(claimant, std::move(question)); }));
}

void close(Session& session) {
  const py::gil_scoped_release unlocked;
  session.close();
}

void bind_channel(py::class_<Session, Owned>& producer) {
  producer
      .def("open_job", &open_job, py::kw_only(), py::arg("label"), py::arg("python"),
           py::arg("body"), py::arg("blobs") = py::tuple(), py::arg("timeout") = 0.0,
           py::arg("retries") = 0, py::arg("priority") = 0, py::arg("crash_budget") = 3,
           py::arg("max_running") = 0, py::arg("cpus") = 0.0, py::arg("memory_bytes") = 0,
           py::arg("gpus") = 0, py::arg("labels") = std::vector<std::string>(),
           py::arg("forward_output") = false, py::arg("counts_results") = false)
      .def("push", &push, py::arg("job"), py::arg("payload"), py::arg("blobs") = py::tuple())
      .def("scatter", &scatter, py::arg("data"), py::arg("timeout"))
      .def("scatter_file", &scatter_file, py::arg("path"), py::arg("offset"), py::arg("size"))
      .def("has_blobs", &has_blobs)
      .def(
          "cancel",
          [](Session& session, std::uint32_t job, std::optional<std::uint64_t> sequence) {
            on_channel(session, [&](Channel& channel) { channel.cancel(job, sequence); });
          },
          py::arg("job"), py::arg("sequence") = py::none())
      .def(
          "consumed",
          [](Session& session, std::uint32_t job, std::uint64_t bytes) {
            on_channel(session, [&](Channel& channel) { channel.consumed(job, bytes); });
          },
          py::arg("job"), py::arg("bytes"))
      .def(
          "close_job",
          [](Session& session, std::uint32_t job) {
            on_channel(session, [&](Channel& channel) { channel.close(job); });
          },
          py::arg("job"))
      .def(
          "drop_job",
          [](Session& session, std::uint32_t job) {
            on_channel(session, [&](Channel& channel) { channel.drop(job); });
          },
          py::arg("job"))
      .def("next", &next_outcomes, py::arg("timeout"), py::arg("most") = 1024)
      .def("wake", &Session::wake)
      .def(
          "waiting_reason",
          [](Session& session, std::uint32_t job) {
            return to_python(
                on_channel(session, [&](Channel& channel) { return channel.waiting_reason(job); }));
          },
          py::arg("job"));
}

}  // namespace

void bind_producer(py::module_& module) {
  py::module_::import("atexit").attr("register")(py::cpp_function(&close_all));

  module.def("default_endpoint", [] { return to_python(default_endpoint()); });

  py::class_<Session, Owned> producer(module, "Producer", py::is_final());
  producer
      .def(py::init(&make), py::kw_only(), py::arg("endpoint") = "", py::arg("label") = "",
           py::arg("embedded") = false, py::arg("workers") = 1, py::arg("slots") = 0,
           py::arg("executor") = "process", py::arg("python") = "", py::arg("python_version") = "",
           py::arg("environment") = py::dict(), py::arg("spool") = "", py::arg("programs") = "",
           py::arg("connect_timeout") = 30.0, py::arg("broker_timeout") = 0.0)
      .def_property_readonly("endpoint",
                             [](const Session& session) { return to_python(session.endpoint()); })
      .def("total_slots",
           [](Session& session) {
             return session.use([](Native& native) { return native.producer.total_slots(); });
           })
      .def("status", &status, py::arg("timeout") = 5.0)
      .def("wait_for_slots", &wait_for_slots, py::arg("slots"), py::arg("timeout"))
      .def("up", &up, py::arg("hosts"), py::arg("origin"))
      .def("next_output", &next_output, py::arg("timeout"))
      .def("use_store", &use_store, py::arg("store"))
      .def("ask", &ask)
      .def("close", &close);
  bind_channel(producer);
}

}  // namespace muster::python
