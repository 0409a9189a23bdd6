#include "worker/runner/plugin.hpp"

#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <typeinfo>
#include <utility>

#include "worker/blobs/task_blobs.hpp"

namespace muster {
namespace {

constexpr std::size_t kNamesShown = 8;

std::size_t edit_distance(const std::string& left, const std::string& right) {
  std::vector<std::size_t> row(right.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < left.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < right.size(); ++j) {
      const std::size_t replaced = diagonal + (left[i] == right[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::string type_name_of(const std::exception& error) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(typeid(error).name(), nullptr, nullptr, &status), &std::free);
  return status == 0 ? name.get() : typeid(error).name();
}

// What a call finds behind its TaskContext.
class CallHost final : public TaskContext::Host {
 public:
  CallHost(std::span<const Blob> blobs, const BlobMaker& make) : blobs_(blobs), make_(make) {}

  std::span<const Blob> blobs() const override { return blobs_; }
  Blob make_blob(std::span<const std::byte> content) override {
    made_.push_back(make_(content));
    return made_.back();
  }
  // What was not made by this call is somebody else's to keep: it goes as a copy.
  Blob attach(const Blob& blob) override {
    for (const auto& [original, attached] : attached_) {
      if (original.is_same_as(blob)) return attached;
    }
    const bool own = std::any_of(made_.begin(), made_.end(),
                                 [&](const Blob& made) { return made.file() == blob.file(); });
    attached_.emplace_back(blob, own ? blob : make_(blob.bytes().span()));
    return attached_.back().second;
  }
  std::vector<Blob> take_attached() const {
    std::vector<Blob> blobs;
    for (const auto& [original, attached] : attached_) blobs.push_back(attached);
    return blobs;
  }

 private:
  const std::span<const Blob> blobs_;
  const BlobMaker& make_;
  std::vector<Blob> made_;
  std::vector<std::pair<Blob, Blob>> attached_;  // as it was given, and what goes
};

}  // namespace

void FunctionRegistry::load(const std::string& file) {
  // A bare name would be searched for in the system's library folders.
  const std::string path = file.find('/') == std::string::npos ? "./" + file : file;
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw PluginError(
        fmt::format("cannot load plug-in '{}': {}; name a shared library that was built with "
                    "<muster/task.hpp> for this machine",
                    file, ::dlerror()));
  }
  if (take_functions(library, file)) return;
  ::dlclose(library);
  throw PluginError(
      fmt::format("'{}' is not a Muster plug-in of this version (it does not define {}): build it "
                  "with MUSTER_PLUGIN from this version's <muster/task.hpp>",
                  file, MUSTER_PLUGIN_SYMBOL));
}

bool FunctionRegistry::take_functions(void* library, const std::string& file) {
  void* symbol = ::dlsym(library, MUSTER_PLUGIN_SYMBOL);
  if (symbol == nullptr) return false;
  loading_ = file;
  try {
    reinterpret_cast<void (*)(Registry&)>(symbol)(*this);
  } catch (const PluginError&) {
    throw;
  } catch (const std::exception& error) {
    throw PluginError(fmt::format("plug-in '{}' failed while it registered its functions: {}", file,
                                  error.what()));
  }
  loading_.clear();
  return true;
}

void FunctionRegistry::add_raw(std::string name, RawFunction function) {
  if (name.empty() || name.size() > limits::kMaxNameBytes) {
    throw PluginError(fmt::format("plug-in '{}' registers a name of {} bytes; use 1 to {}",
                                  loading_, name.size(), limits::kMaxNameBytes));
  }
  if (functions_.size() == limits::kMaxFunctions) {
    throw PluginError(
        fmt::format("plug-in '{}' registers more than the {} functions a worker offers", loading_,
                    limits::kMaxFunctions));
  }
  if (functions_.count(name) != 0) {
    throw PluginError(
        fmt::format("plug-in '{}' registers '{}', which is registered already: rename one of the "
                    "two functions, "
                    "or name each plug-in once",
                    loading_, name));
  }
  functions_.emplace(std::move(name), std::move(function));
}

const RawFunction* FunctionRegistry::find(const std::string& name) const {
  const auto found = functions_.find(name);
  return found == functions_.end() ? nullptr : &found->second;
}

std::vector<std::string> FunctionRegistry::names() const {
  std::vector<std::string> names;
  names.reserve(functions_.size());
  for (const auto& [name, function] : functions_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

Failure FunctionRegistry::unknown_function(const std::string& name) const {
  std::vector<std::string> known = names();
  std::string text = fmt::format("this worker has no function '{}'", name);
  const std::string* closest = nullptr;
  std::size_t least = name.size() / 3 + 2;
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < least) {
      least = distance;
      closest = &candidate;
    }
  }
  if (closest != nullptr) text += fmt::format("; did you mean '{}'?", *closest);
  if (known.empty()) {
    text += "; it has none at all: start it with --plugin FILE";
    return {"unknown_function", std::move(text), "", {}};
  }
  const std::size_t total = known.size();
  known.resize(std::min(total, kNamesShown));
  text += fmt::format(" (it has {}{})", fmt::join(known, ", "),
                      total > kNamesShown ? fmt::format(" and {} more", total - kNamesShown) : "");
  return {"unknown_function", std::move(text), "", {}};
}

CallResult call_function(const Call& call, const BlobMaker& make_blob,
                         std::uint64_t max_result_bytes) {
  const auto failed_with = [](std::string kind, std::string message, std::string traceback = "") {
    return CallResult{
        {}, {}, Failure{std::move(kind), std::move(message), std::move(traceback), {}}};
  };
  try {
    CallHost host(call.blobs, make_blob);
    CallResult result;
    result.body = call.function(call.payload, TaskContext(call.attempt, call.stop, host));
    result.blobs = host.take_attached();
    const std::uint64_t size_bytes = size_of_result(result.body, result.blobs);
    if (size_bytes <= max_result_bytes) return result;
    return failed_with("result_too_large",
                       fmt::format("{} returned {} bytes; the limit is {}: write large results to "
                                   "a file and return its name",
                                   call.name, size_bytes, max_result_bytes));
  } catch (const PackError& error) {
    return failed_with("bad_arguments", fmt::format("{}: {}", call.name, error.what()));
  } catch (const BlobError& error) {
    return {{}, {}, blob_failure(error)};
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (const std::exception& error) {
    return failed_with("exception", error.what(), type_name_of(error));
  } catch (...) {
    return failed_with("exception",
                       fmt::format("{} threw something that is not a std::exception", call.name));
  }
}

}  // namespace muster
