// Native functions: plug-in libraries, the registry they fill, and one guarded call.
//
// Filled in `main` before any task runs and read-only afterwards; then any thread may call.
#pragma once

#include <atomic>
#include <functional>
#include <muster/blob.hpp>
#include <muster/task.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/protocol/limits.hpp"
#include "common/protocol/message.hpp"

namespace muster {

// The plug-in cannot be used. `what()` names the file, the reason and what to do.
class PluginError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class FunctionRegistry final : public Registry {
 public:
  // A result of more bytes is an error of its task.
  explicit FunctionRegistry(std::uint64_t max_result_bytes = limits::kMaxResultBytes)
      : max_result_bytes_(max_result_bytes) {}

  // Loads a shared library and its functions, for the life of the process. Throws PluginError.
  void load(const std::string& file);
  // The functions of a library that is loaded, which errors call `file`. False: it has none.
  bool take_functions(void* library, const std::string& file);

  // Throws PluginError when the name is taken, empty or too long.
  void add_raw(std::string name, RawFunction function) override;

  // Null when nobody registered that name; valid as long as the registry.
  const RawFunction* find(const std::string& name) const;
  std::vector<std::string> names() const;  // sorted
  std::uint64_t max_result_bytes() const { return max_result_bytes_; }
  // The failure of a task that asks for a function that is not here.
  Failure unknown_function(const std::string& name) const;

 private:
  std::uint64_t max_result_bytes_;
  std::unordered_map<std::string, RawFunction> functions_;
  std::string loading_;  // the file whose functions are being added
};

// What a call gives.
struct CallResult {
  Bytes body;
  std::vector<Blob> blobs;
  std::optional<Failure> failure;  // instead of a result
};

// Makes a blob of a result; throws BlobError.
using BlobMaker = std::function<Blob(std::span<const std::byte> content)>;

// One call of a function, as the thread that makes it sees it.
struct Call {
  const std::string& name;
  const RawFunction& function;
  const Bytes& payload;  // unpacked
  std::span<const Blob> blobs;
  std::uint32_t attempt = 0;
  const std::atomic<bool>& stop;
};
// Whatever the function throws becomes the failure.
CallResult call_function(const Call& call, const BlobMaker& make_blob,
                         std::uint64_t max_result_bytes = limits::kMaxResultBytes);

}  // namespace muster
