// Questions to the pool's stores: what both faces of the module share.
#include "python/native/store_binding.hpp"

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "python/native/convert.hpp"

namespace muster::python {

namespace py = pybind11;

namespace {

// A question that was asked: its answer, some time.
class Asked {
 public:
  explicit Asked(std::unique_ptr<PendingReply> reply) : reply_(std::move(reply)) {}

  // None: not yet. Once only.
  py::object wait(double timeout) {
    std::optional<StoreReply> reply;
    {
      const py::gil_scoped_release unlocked;
      reply = reply_->wait_for(to_duration(timeout));
    }
    if (!reply) return py::none();
    py::list entries;
    for (const StoreEntry& entry : reply->entries) {
      entries.append(py::make_tuple(to_python(entry.key), entry.size_bytes,
                                    static_cast<double>(entry.accessed_unix_ms) / 1000.0,
                                    entry.hits));
    }
    return py::make_tuple(static_cast<int>(reply->status), to_python(reply->text),
                          to_python(reply->value), reply->size_bytes, reply->version,
                          to_python(reply->machine), to_python(reply->file),
                          to_python(reply->folder), entries);
  }

 private:
  std::unique_ptr<PendingReply> reply_;
};

}  // namespace

StoreQuestion store_question(int operation, const py::str& store, const py::str& key,
                             const py::dict& fields) {
  StoreQuestion question;
  question.operation = static_cast<StoreOperation>(operation);
  question.store = to_text(store);
  question.key = to_text(key);
  for (const auto& [field, value] : fields) {
    const std::string name = to_text(py::str(field));
    if (name == "text") {
      question.text = to_text(py::str(value));
    } else if (name == "value") {
      question.value = to_bytes(value);
    } else if (name == "file") {
      question.file = to_text(py::str(value));
    } else if (name == "offset") {
      question.offset = value.cast<std::uint64_t>();
    } else if (name == "size") {
      question.size_bytes = value.cast<std::uint64_t>();
    } else if (name == "version") {
      question.version = value.cast<std::uint64_t>();
    } else if (name == "may_block") {
      question.may_block = value.cast<bool>();
    } else if (name == "bytes_limit") {
      question.limits.bytes = value.cast<std::uint64_t>();
    } else if (name == "items_limit") {
      question.limits.items = value.cast<std::uint64_t>();
    } else if (name == "age_limit_ms") {
      question.limits.age_ms = value.cast<std::uint64_t>();
    } else {
      throw py::type_error("a question to a store has no field " + name);
    }
  }
  return question;
}

py::object store_asked(std::unique_ptr<PendingReply> reply) {
  return py::cast(std::make_unique<Asked>(std::move(reply)));
}

void bind_stores(py::module_& module) {
  py::class_<Asked>(module, "Asked", py::is_final()).def("wait", &Asked::wait, py::arg("timeout"));
  module.attr("STORE_PIECE_BYTES") = kStorePieceBytes;
}

}  // namespace muster::python
