// Blobs and their maps as Python objects: `muster._native.Blob` and `muster._native.Buffer`.
//
// Threads: every function here needs the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <span>
#include <utility>
#include <vector>

namespace muster::python {

unsigned fork_generation();  // convert.hpp

// What a forked child must not end, because its end speaks to the parent's threads: it leaks there.
template <typename Value>
class OfThisProcess {
 public:
  explicit OfThisProcess(Value value) : value_(std::move(value)) {}
  ~OfThisProcess() {
    if (generation_ == fork_generation()) return;
    static_cast<void>(std::make_unique<Value>(std::move(value_)).release());
  }
  OfThisProcess(OfThisProcess&&) noexcept = default;
  OfThisProcess(const OfThisProcess&) = default;
  OfThisProcess& operator=(const OfThisProcess&) = delete;
  OfThisProcess& operator=(OfThisProcess&&) = delete;

  const Value& get() const { return value_; }

 private:
  unsigned generation_ = fork_generation();
  Value value_;
};

// Bytes of the core as a Python buffer, read-only unless they are this object's own.
class Buffer {
 public:
  explicit Buffer(Bytes bytes, bool writable = false, bool is_blob = false)
      : bytes_(std::move(bytes)), writable_(writable), is_blob_(is_blob) {}
  const Bytes& bytes() const { return bytes_.get(); }
  bool writable() const { return writable_; }
  bool is_blob() const { return is_blob_; }

 private:
  OfThisProcess<Bytes> bytes_;
  bool writable_;
  bool is_blob_;
};

// A list of `muster._native.Blob`, and back.
pybind11::list to_python(const std::vector<Blob>& blobs);
std::vector<Blob> to_blobs(const pybind11::iterable& blobs);
pybind11::object to_python(const Blob& blob);

// A contiguous view of a bytes-like object for as long as it lives. Throws Python's BufferError.
class View {
 public:
  explicit View(const pybind11::handle& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) {
      throw pybind11::error_already_set();
    }
  }
  ~View() { PyBuffer_Release(&view_); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  const void* data() const { return view_.buf; }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }
  std::span<const std::byte> span() const {
    return {static_cast<const std::byte*>(view_.buf), size()};
  }

 private:
  Py_buffer view_{};
};

void bind_blobs(pybind11::module_& module);

}  // namespace muster::python
