// muster._native: what python/muster/_native.pyi says, over the core's public headers.
#include <pybind11/pybind11.h>

#include "python/native/convert.hpp"

PYBIND11_MODULE(_native, module) {
  module.attr("VERSION") = MUSTER_VERSION;
  muster::python::bind_shared(module);
  muster::python::bind_common(module);
  muster::python::bind_stores(module);
  muster::python::bind_producer(module);
  muster::python::bind_runner(module);
}
