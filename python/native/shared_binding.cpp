// What Python takes from the core instead of saying it again: limits, names and numbers.
#include <pybind11/pybind11.h>

#include <muster/producer.hpp>
#include <muster/shared.hpp>
#include <muster/store.hpp>

#include "python/native/convert.hpp"

namespace muster::python {

namespace py = pybind11;

namespace {

template <typename... Values>
py::tuple numbers(Values... values) {
  return py::make_tuple(static_cast<int>(values)...);
}

void bind_limits(py::module_& module) {
  const SharedLimits limits = shared_limits();
  module.attr("BLOB_BYTES") = limits.blob_bytes;
  module.attr("RESULT_BLOB_BYTES") = limits.result_blob_bytes;
  module.attr("MAX_BODY_BYTES") = limits.body_bytes;
  module.attr("MAX_PAYLOAD_BLOBS") = limits.payload_blobs;
  module.attr("MAX_RESULT_BYTES") = limits.result_bytes;
  module.attr("MAX_LABELS") = limits.labels;
  module.attr("MAX_TEXT_BYTES") = limits.text_bytes;
  module.attr("WINDOW_TASKS") = JobOptions().window;
}

void bind_variables(py::module_& module) {
  module.attr("NODE_VARIABLE") = kNodeVariable;
  module.attr("SLOT_CORES_VARIABLE") = kSlotCoresVariable;
  module.attr("BLOBS_VARIABLE") = kBlobsVariable;
  module.attr("JOBLIB_CORES_VARIABLE") = kJoblibCoresVariable;
  module.attr("PROGRAMS_VARIABLE") = kProgramsVariable;
  py::list threads;
  for (const char* name : kThreadVariables) threads.append(name);
  module.attr("THREAD_VARIABLES") = py::tuple(threads);
}

}  // namespace

void bind_shared(py::module_& module) {
  bind_limits(module);
  bind_variables(module);
  using Line = OutputLine::Kind;
  module.attr("LINE_KINDS") = numbers(Line::output, Line::error, Line::log, Line::warning);
  using Ask = StoreOperation;
  module.attr("STORE_OPERATIONS") =
      numbers(Ask::get, Ask::claim, Ask::put, Ask::release, Ask::contains, Ask::list, Ask::remove,
              Ask::remove_all, Ask::trim, Ask::read, Ask::leave);
  using State = StoreStatus;
  module.attr("STORE_STATES") =
      numbers(State::hit, State::miss, State::yours, State::done, State::changed, State::refused);
}

}  // namespace muster::python
