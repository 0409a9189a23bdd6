#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string_view>

#include "python/native/blob.hpp"

namespace muster::python {

namespace py = pybind11;

namespace {

// A sample: the whole of what is small, else the ends and blocks at even distances between them.
constexpr std::size_t kBlockBytes = 4096;
constexpr std::size_t kBlocks = 64;
constexpr std::size_t kReadWholeBytes = kBlockBytes * (kBlocks + 2);

class SharedBlob {
 public:
  explicit SharedBlob(const Blob& blob) : blob_(blob) {}
  const Blob& blob() const { return blob_.get(); }

  py::bytes id() const {
    std::array<char, 16> text{};
    if (const auto& file = blob().file()) {
      for (std::size_t i = 0; i < 8; ++i) {
        text[i] = static_cast<char>(file->high >> (8 * (7 - i)));
        text[8 + i] = static_cast<char>(file->low >> (8 * (7 - i)));
      }
    }
    return {text.data(), text.size()};
  }

  Buffer map(std::uint64_t offset, std::uint64_t size, bool copied) const {
    if (offset > blob().size() || size > blob().size() - offset) {
      throw BlobError("a payload names bytes beyond the end of a blob: it is damaged");
    }
    const py::gil_scoped_release unlocked;
    if (!copied) return Buffer(blob().bytes().slice(offset, size));
    std::shared_ptr<std::byte> own = blob().copy_on_write();
    const std::span<const std::byte> part(own.get() + offset, size);
    return Buffer(Bytes(std::move(own), part), true);
  }

 private:
  OfThisProcess<Blob> blob_;
};

py::buffer_info describe(const Buffer& buffer) {
  const Bytes& bytes = buffer.bytes();
  const auto size = static_cast<py::ssize_t>(bytes.size());
  auto* data = const_cast<std::byte*>(bytes.data());
  return {data, 1, "B", 1, {size}, {py::ssize_t{1}}, !buffer.writable()};
}

std::uint64_t hash_of(std::span<const std::byte> block) {
  return std::hash<std::string_view>()({reinterpret_cast<const char*>(block.data()), block.size()});
}

std::uint64_t sample_of(std::span<const std::byte> content) {
  if (content.size() <= kReadWholeBytes) return hash_of(content);
  std::uint64_t mixed = content.size();
  const std::size_t step = (content.size() - kBlockBytes) / (kBlocks + 1);
  for (std::size_t block = 0; block < kBlocks + 2; ++block) {
    const std::size_t start = std::min(block * step, content.size() - kBlockBytes);
    mixed = mixed * 0x9E3779B97F4A7C15U + hash_of(content.subspan(start, kBlockBytes));
  }
  return mixed ^ hash_of(content.last(kBlockBytes));
}

}  // namespace

py::object to_python(const Blob& blob) { return py::cast(SharedBlob(blob)); }

py::list to_python(const std::vector<Blob>& blobs) {
  py::list list(blobs.size());
  for (std::size_t i = 0; i < blobs.size(); ++i) list[i] = to_python(blobs[i]);
  return list;
}

std::vector<Blob> to_blobs(const py::iterable& blobs) {
  std::vector<Blob> result;
  for (const py::handle& blob : blobs) result.push_back(py::cast<const SharedBlob&>(blob).blob());
  return result;
}

void bind_blobs(py::module_& module) {
  py::class_<Buffer>(module, "Buffer", py::buffer_protocol(), py::is_final())
      .def("__len__", [](const Buffer& buffer) { return buffer.bytes().size(); })
      .def_property_readonly("is_blob", &Buffer::is_blob)
      .def_buffer([](const Buffer& buffer) { return describe(buffer); });

  py::class_<SharedBlob>(module, "Blob", py::is_final())
      .def_property_readonly("id", &SharedBlob::id)
      .def_property_readonly("size", [](const SharedBlob& shared) { return shared.blob().size(); })
      .def("map", &SharedBlob::map, py::arg("offset"), py::arg("size"), py::arg("copied"));

  module.def(
      "address_of",
      [](const py::object& data) {
        const View view(data);
        return reinterpret_cast<std::uintptr_t>(view.data());
      },
      py::arg("data"));
  module.def(
      "fingerprint",
      [](const py::object& data) {
        const View view(data);
        const py::gil_scoped_release unlocked;
        return sample_of(view.span());
      },
      py::arg("data"));
}

}  // namespace muster::python
