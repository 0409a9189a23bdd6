// What producer and runner bindings need to ask the pool's stores. Threads: with the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <muster/store.hpp>

namespace muster::python {

StoreQuestion store_question(int operation, const pybind11::str& store, const pybind11::str& key,
                             const pybind11::dict& fields);
pybind11::object store_asked(std::unique_ptr<PendingReply> reply);

}  // namespace muster::python
