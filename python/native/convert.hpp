// Between Python's values and the core's: bytes, texts, errors and times.
//
// Threads: every function here needs the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <muster/bytes.hpp>
#include <muster/outcome.hpp>
#include <string>

#include "python/native/blob.hpp"

namespace muster::python {

// Below this a copy into a `bytes` is cheaper than an object with an owner and a buffer protocol.
inline constexpr std::size_t kBufferBytes = 64 * 1024;
// From this size on a copy is worth letting other threads run meanwhile.
inline constexpr std::size_t kUnlockedCopyBytes = 256 * 1024;

// `bytes` when it is smaller than kBufferBytes, else a Buffer that shares `bytes`.
pybind11::object to_python(const Bytes& bytes);
// A copy of what a contiguous bytes-like object holds. Throws BufferError when it is none.
Bytes to_bytes(const pybind11::handle& buffer);
// Text of any source is shown, never refused: what is no UTF-8 is replaced.
pybind11::str to_python(const std::string& text);
// As UTF-8; lone surrogates are written as escapes.
std::string to_text(const pybind11::handle& text);

// (code, kind, message, traceback, extra)
pybind11::tuple failure(const Error& error);

// Negative and absurd times are cut to what a clock can add.
std::chrono::nanoseconds to_duration(double seconds);

// Forked children hold copies of objects whose threads stayed in the parent: nothing of these may
// be joined or closed there. An object remembers the generation that it was made in.
unsigned fork_generation();

void bind_common(pybind11::module_& module);
void bind_producer(pybind11::module_& module);
void bind_runner(pybind11::module_& module);
void bind_stores(pybind11::module_& module);
void bind_shared(pybind11::module_& module);

}  // namespace muster::python
