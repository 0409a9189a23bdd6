#include "worker/plugin.hpp"

#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <typeinfo>

#include "common/codec.hpp"

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

Outcome error_outcome(std::string kind, std::string message, std::string traceback = "") {
  return failed(OutcomeStatus::error,
                {std::move(kind), std::move(message), std::move(traceback), {}});
}

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
  void* symbol = ::dlsym(library, MUSTER_PLUGIN_SYMBOL);
  if (symbol == nullptr) {
    ::dlclose(library);
    throw PluginError(fmt::format(
        "'{}' is not a Muster plug-in of this version (it does not define {}): build it "
        "with MUSTER_PLUGIN from this version's <muster/task.hpp>",
        file, MUSTER_PLUGIN_SYMBOL));
  }
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

Outcome FunctionRegistry::unknown_function(const std::string& name) const {
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
    return error_outcome("unknown_function", std::move(text));
  }
  const std::size_t total = known.size();
  known.resize(std::min(total, kNamesShown));
  text += fmt::format(" (it has {}{})", fmt::join(known, ", "),
                      total > kNamesShown ? fmt::format(" and {} more", total - kNamesShown) : "");
  return error_outcome("unknown_function", std::move(text));
}

Outcome call_function(const std::string& name, const RawFunction& function, const Payload& payload,
                      const TaskContext& context, std::uint64_t max_result_bytes) {
  try {
    Bytes result;
    if (payload.unpacked_bytes == 0) {
      result = function(payload.bytes, context);
    } else {
      const std::optional<Bytes> plain = unpack_payload(payload);
      if (!plain) return error_outcome("bad_arguments", name + ": the packed payload is damaged");
      result = function(*plain, context);
    }
    if (result.size() > max_result_bytes) {
      return error_outcome(
          "result_too_large",
          fmt::format("{} returned {} bytes; the limit is {}: write large results to "
                      "a file and return its name",
                      name, result.size(), max_result_bytes));
    }
    return {OutcomeStatus::result, {std::move(result), 0}};
  } catch (const PackError& error) {
    return error_outcome("bad_arguments", fmt::format("{}: {}", name, error.what()));
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (const std::exception& error) {
    return error_outcome("exception", error.what(), type_name_of(error));
  } catch (...) {
    return error_outcome("exception",
                         fmt::format("{} threw something that is not a std::exception", name));
  }
}

}  // namespace muster
