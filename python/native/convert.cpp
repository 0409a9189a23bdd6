#include "python/native/convert.hpp"

#include <algorithm>
#include <atomic>
#include <exception>

namespace muster::python {

namespace py = pybind11;

namespace {

std::atomic<unsigned> generation{0};

const char* name_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid:
      return "invalid";
    case ErrorCode::task_failed:
      return "task_failed";
    case ErrorCode::task_timed_out:
      return "task_timed_out";
    case ErrorCode::task_cancelled:
      return "task_cancelled";
    case ErrorCode::task_lost:
      return "task_lost";
    case ErrorCode::no_worker:
      return "no_worker";
    case ErrorCode::disconnected:
      return "disconnected";
    case ErrorCode::refused:
      return "refused";
    case ErrorCode::wait_timed_out:
      return "wait_timed_out";
    case ErrorCode::unusable:
      return "unusable";
    case ErrorCode::out_of_space:
      return "out_of_space";
  }
  std::terminate();
}

}  // namespace

py::object to_python(const Bytes& bytes) {
  if (bytes.size() >= kBufferBytes) return py::cast(Buffer(bytes));
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Bytes to_bytes(const py::handle& buffer) {
  const View view(buffer);
  if (view.size() < kUnlockedCopyBytes) return Bytes::copy(view.data(), view.size());
  const py::gil_scoped_release unlocked;
  return Bytes::copy(view.data(), view.size());
}

py::str to_python(const std::string& text) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(decoded);
}

std::string to_text(const py::handle& text) {
  PyObject* encoded = PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace");
  if (encoded == nullptr) throw py::error_already_set();
  return std::string(py::reinterpret_steal<py::bytes>(encoded));
}

py::tuple failure(const Error& error) {
  const std::string_view extra = error.extra().text();
  return py::make_tuple(name_of(error.code()), to_python(error.kind()),
                        to_python(std::string(error.what())), to_python(error.traceback()),
                        py::bytes(extra.data(), extra.size()));
}

std::chrono::nanoseconds to_duration(double seconds) {
  constexpr double kLongest = 3e8;  // ten years: ends no wait and overflows no clock
  const double bounded = seconds > 0 ? std::min(seconds, kLongest) : 0.0;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(bounded));
}

unsigned fork_generation() { return generation; }

void bind_common(py::module_& module) {
  py::module_::import("os").attr("register_at_fork")(py::arg("after_in_child") =
                                                         py::cpp_function([] { ++generation; }));

  bind_blobs(module);

  // Lives as long as the process, as the module does.
  static const py::handle kErrorType =
      py::exception<Error>(module, "Error", PyExc_Exception).release();
  py::register_exception_translator(
      [](std::exception_ptr thrown) {  // NOLINT(performance-*): its type
        try {
          if (thrown) std::rethrow_exception(thrown);
        } catch (const Error& error) {
          PyErr_SetObject(kErrorType.ptr(), failure(error).ptr());
        }
      });
}

}  // namespace muster::python
