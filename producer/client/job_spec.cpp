#include "producer/client/job_spec.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "producer/client/outcome_error.hpp"
#include "producer/session/invalid_call.hpp"

namespace muster::detail {
namespace {

FunctionKind kind_of(const FunctionName& function) {
  if (function.command) return FunctionKind::command;
  return function.python.empty() ? FunctionKind::native : FunctionKind::python;
}

void check(const FunctionName& function, FunctionKind kind) {
  if (function.name.size() > limits::kMaxNameBytes ||
      function.python.size() > limits::kMaxNameBytes) {
    throw invalid_call("a function's name is longer than 512 bytes");
  }
  if (function.name.empty() && kind == FunctionKind::native) {
    throw invalid_call("a function without a name");
  }
  if (function.command && !function.python.empty()) {
    throw invalid_call("FunctionName::command and FunctionName::python exclude each other");
  }
  if ((function.body.empty() && function.blobs.empty()) != (kind != FunctionKind::python)) {
    throw invalid_call("FunctionName::python and FunctionName::body go together");
  }
}

Resources resources_of(const JobOptions& options) {
  constexpr double kMostCpus = 4'000'000;  // in thousandths within 32 bits
  if (!(options.cpus >= 0) || options.cpus > kMostCpus) {
    throw invalid_call("JobOptions::cpus must be between 0 and 4,000,000");
  }
  return {static_cast<std::uint32_t>(std::ceil(options.cpus * 1000 - 1e-6)), options.memory_bytes,
          options.gpus};
}

std::string read_library(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file || content.empty()) {
    throw invalid_call("the library '" + path + "' that is to be shipped cannot be read");
  }
  return content;
}

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

void check_labels(const std::vector<std::string>& labels) {
  if (labels.size() > limits::kMaxLabels) {
    throw invalid_call("JobOptions::labels has more than 64 labels");
  }
  for (const std::string& label : labels) {
    if (label.empty() || label.size() > limits::kMaxNameBytes) {
      throw invalid_call("a label of JobOptions::labels is empty or longer than 512 bytes");
    }
  }
}

}  // namespace

std::vector<std::string> shipped_by(const FunctionName& function, const JobOptions& options) {
  std::vector<std::string> libraries = function.ship;
  libraries.insert(libraries.end(), options.ship.begin(), options.ship.end());
  return libraries;
}

Payload pack_libraries(const Client& client, FunctionKind kind,
                       const std::vector<std::string>& libraries) {
  if (libraries.empty()) return {};
  if (kind != FunctionKind::native) {
    throw invalid_call("only jobs of native functions ship plug-in libraries");
  }
  std::vector<Blob> blobs;
  std::vector<std::string> names;
  for (const std::string& library : libraries) {
    names.push_back(std::filesystem::path(library).filename().string());
    if (std::find(names.begin(), names.end() - 1, names.back()) != names.end() - 1) {
      throw invalid_call("two libraries to ship have the same name: " + names.back());
    }
    blobs.push_back(client.blobs().scatter(as_bytes(read_library(library))));
  }
  return client.pack(pack_value(names), blobs);
}

JobSpec spec_of(const Client& client, const FunctionName& function, const JobOptions& options) {
  const FunctionKind kind = kind_of(function);
  check(function, kind);
  if (options.crash_budget == 0) throw invalid_call("JobOptions::crash_budget must be at least 1");
  if (options.timeout.count() < 0 || options.timeout > std::chrono::hours(24 * 365)) {
    throw invalid_call("JobOptions::timeout must be between 0 and a year");
  }
  Resources wanted = resources_of(options);
  check_labels(options.labels);
  const std::vector<std::string> shipped = shipped_by(function, options);
  Payload body = kind == FunctionKind::python ? client.pack(function.body, function.blobs)
                                              : pack_libraries(client, kind, shipped);
  if (kind == FunctionKind::python && !shipped.empty()) {
    throw invalid_call("only jobs of native functions ship plug-in libraries");
  }
  return {{kind, function.name, function.python, std::move(body)},
          options.timeout,
          options.retries,
          options.priority,
          options.crash_budget,
          options.max_running,
          options.forward_output,
          wanted,
          options.labels};
}

}  // namespace muster::detail
