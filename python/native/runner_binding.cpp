#include <pybind11/pybind11.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <muster/runner.hpp>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "python/native/convert.hpp"
#include "python/native/store_binding.hpp"

namespace muster::python {

namespace py = pybind11;

namespace {

// muster::RunnerLink, and which thread runs which task. The GIL guards both tables.
class Link {
 public:
  Link(int descriptor, py::object stop_exception, std::uint64_t max_result_bytes)
      : generation_(fork_generation()), stop_exception_(std::move(stop_exception)) {
    RunnerLink::Options options;
    options.on_stop = [this](std::uint64_t task_id) { stop(task_id); };
    options.max_result_bytes = max_result_bytes;
    link_ = std::make_unique<RunnerLink>(descriptor, std::move(options));
  }
  ~Link() {
    if (generation_ != fork_generation()) {
      static_cast<void>(link_.release());  // its thread is the parent's
      return;
    }
    const py::gil_scoped_release unlocked;  // its thread may be waiting for the GIL in stop()
    link_.reset();
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  void ready() {
    const py::gil_scoped_release unlocked;
    link_->ready();
  }
  RunnerTask next() {
    RunnerTask task;
    {
      const py::gil_scoped_release unlocked;
      task = link_->next();
    }
    const unsigned long thread = PyThread_get_thread_ident();
    running_[task.id] = {thread, false};
    current_[thread] = task.id;
    return task;
  }
  py::object current() const {
    const auto found = current_.find(PyThread_get_thread_ident());
    if (found == current_.end()) return py::none();
    return py::int_(found->second);
  }
  // The task that this thread works for; None: which of several cannot be told, or there is none.
  py::object task() const {
    if (current_.size() == 1) return py::int_(current_.begin()->second);
    return current();
  }
  py::object ask(std::uint64_t task_id, std::uint64_t claimant, int operation, const py::str& store,
                 const py::str& key, const py::kwargs& fields) {
    StoreQuestion question = store_question(operation, store, key, fields);
    std::unique_ptr<PendingReply> reply;
    {
      const py::gil_scoped_release unlocked;
      reply = link_->ask(task_id, claimant, std::move(question));
    }
    return store_asked(std::move(reply));
  }
  void finish(std::uint64_t task_id, const py::object& result, const py::iterable& blobs) {
    Bytes bytes = to_bytes(result);
    const std::vector<Blob> named = to_blobs(blobs);
    ended(task_id);
    const py::gil_scoped_release unlocked;
    link_->finish(task_id, std::move(bytes), named);
  }
  py::object make_blob(const py::iterable& parts) {
    std::deque<View> views;
    for (const py::handle& part : parts) views.emplace_back(part);
    std::vector<std::span<const std::byte>> spans;
    for (const View& view : views) spans.push_back(view.span());
    Blob blob;
    {
      const py::gil_scoped_release unlocked;
      blob = link_->make_blob(spans);
    }
    return to_python(blob);
  }
  bool keeps_blobs() const { return link_->keeps_blobs(); }
  bool shares_files() const { return link_->shares_files(); }
  void fail(std::uint64_t task_id, const py::str& kind, const py::str& message,
            const py::str& traceback, const py::object& extra) {
    const std::string kind_text = to_text(kind);
    const std::string message_text = to_text(message);
    const std::string traceback_text = to_text(traceback);
    Bytes extra_bytes = to_bytes(extra);
    ended(task_id);
    const py::gil_scoped_release unlocked;
    link_->fail(task_id, kind_text, message_text, traceback_text, std::move(extra_bytes));
  }
  void say(std::uint64_t task_id, int kind, std::uint32_t level, const py::str& name,
           const py::str& text) {
    std::string name_text = to_text(name);
    std::string line = to_text(text);
    const py::gil_scoped_release unlocked;
    link_->say(task_id, kind, level, std::move(name_text), std::move(line));
  }
  std::vector<std::uint64_t> forgotten() { return link_->forgotten(); }
  void abandon() { link_->abandon(); }

 private:
  struct Run {
    unsigned long thread = 0;
    bool stopped = false;  // the exception was raised: delivered or still pending
  };

  // On the link's own thread.
  void stop(std::uint64_t task_id) {
    const py::gil_scoped_acquire locked;
    const auto run = running_.find(task_id);
    if (run == running_.end() || run->second.stopped) return;
    run->second.stopped = true;
    PyThreadState_SetAsyncExc(run->second.thread, stop_exception_.ptr());
  }
  // No exception for this task can arrive from here on: one that is pending is taken back.
  void ended(std::uint64_t task_id) {
    const auto run = running_.find(task_id);
    if (run == running_.end()) return;
    if (run->second.stopped) PyThreadState_SetAsyncExc(run->second.thread, nullptr);
    const auto current = current_.find(run->second.thread);
    if (current != current_.end() && current->second == task_id) current_.erase(current);
    running_.erase(run);
  }

  const unsigned generation_;
  py::object stop_exception_;
  std::unordered_map<std::uint64_t, Run> running_;
  std::unordered_map<unsigned long, std::uint64_t> current_;
  std::unique_ptr<RunnerLink> link_;
};

}  // namespace

void bind_runner(py::module_& module) {
  py::class_<RunnerTask>(module, "RunnerTask", py::is_final())
      .def_readonly("id", &RunnerTask::id)
      .def_property_readonly("job_key", [](const RunnerTask& task) { return task.job->key; })
      .def_property_readonly("label",
                             [](const RunnerTask& task) { return to_python(task.job->name); })
      .def_property_readonly("body",
                             [](const RunnerTask& task) { return to_python(task.job->body); })
      .def_property_readonly("job_blobs",
                             [](const RunnerTask& task) { return to_python(task.job->blobs); })
      .def_property_readonly("inline_results",
                             [](const RunnerTask& task) { return task.job->inline_results; })
      .def_readonly("sequence", &RunnerTask::sequence)
      .def_readonly("attempt", &RunnerTask::attempt)
      .def_property_readonly("payload",
                             [](const RunnerTask& task) { return to_python(task.payload); })
      .def_property_readonly("blobs", [](const RunnerTask& task) { return to_python(task.blobs); });

  py::class_<Link>(module, "RunnerLink", py::is_final())
      .def(py::init<int, py::object, std::uint64_t>(), py::arg("descriptor") = 3, py::kw_only(),
           py::arg("stop_exception"), py::arg("max_result_bytes"))
      .def("ready", &Link::ready)
      .def("next", &Link::next)
      .def("current", &Link::current)
      .def("finish", &Link::finish, py::arg("task_id"), py::arg("result"),
           py::arg("blobs") = py::tuple())
      .def("make_blob", &Link::make_blob, py::arg("parts"))
      .def("keeps_blobs", &Link::keeps_blobs)
      .def("shares_files", &Link::shares_files)
      .def("task", &Link::task)
      .def("ask", &Link::ask)
      .def("fail", &Link::fail, py::arg("task_id"), py::arg("kind"), py::arg("message"),
           py::arg("traceback"), py::arg("extra"))
      .def("say", &Link::say, py::arg("task_id"), py::arg("kind"), py::arg("level"),
           py::arg("name"), py::arg("text"))
      .def("forgotten",
           [](Link& link) {
             py::list keys;
             for (const std::uint64_t key : link.forgotten()) keys.append(key);
             return keys;
           })
      .def("abandon", &Link::abandon);
}

}  // namespace muster::python
