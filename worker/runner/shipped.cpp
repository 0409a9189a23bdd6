#include "worker/runner/shipped.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/system/descriptor.hpp"

namespace muster {
namespace {

std::pair<std::uint64_t, std::uint64_t> id_of(const Blob& blob) {
  return {blob.file()->high, blob.file()->low};
}

// The same content in a file of this process alone.
Descriptor copy_in_memory(const std::string& name, const Bytes& content) {
  Descriptor file(::memfd_create(name.substr(0, 200).c_str(), MFD_CLOEXEC));
  std::string_view rest = content.text();
  while (file && !rest.empty()) {
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written <= 0) {
      throw PluginError(fmt::format("no memory for the library '{}' of {} bytes: {}", name,
                                    content.size(), std::strerror(errno)));
    }
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return file;
}

// Loads what the descriptor is open on. It stays open: the loader takes two files that had one name
// for the same library.
void* open_library(Descriptor file) {
  void* library =
      ::dlopen(fmt::format("/proc/self/fd/{}", file.get()).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) static_cast<void>(file.release());
  return library;
}

// What the loader said last, with the library's own name.
std::string loader_error(const std::string& name) {
  std::string text = ::dlerror();
  const std::string place = "/proc/self/fd/";
  for (std::size_t at = text.find(place); at != std::string::npos; at = text.find(place)) {
    const std::size_t end = text.find_first_not_of("0123456789", at + place.size());
    text.replace(at, end - at, name);
  }
  return text;
}

}  // namespace

ShippedLibraries::Found ShippedLibraries::find(const std::string& name) const {
  const RawFunction* function = own_.find(name);
  if (function == nullptr) return {nullptr, own_.unknown_function(name)};
  return {function, {}};
}

ShippedLibraries::Found ShippedLibraries::find(const std::string& name, const OpenPayload& job) {
  try {
    const Functions& functions = functions_of(job);
    if (!functions.error.empty()) return {nullptr, Failure{"bad_library", functions.error, "", {}}};
    const RawFunction* function = functions.registry->find(name);
    if (function == nullptr) function = own_.find(name);
    if (function == nullptr) return {nullptr, functions.registry->unknown_function(name)};
    return {function, {}};
  } catch (const BlobError& error) {
    return {nullptr, blob_failure(error)};
  }
}

const ShippedLibraries::Functions& ShippedLibraries::functions_of(const OpenPayload& job) {
  std::vector<Id> ids;
  for (const Blob& blob : job.blobs) ids.push_back(id_of(blob));
  const std::lock_guard lock(mutex_);
  const auto found = functions_.find(ids);
  if (found != functions_.end()) return found->second;
  Functions functions;
  try {
    functions.registry = load(ids, job);
  } catch (const PluginError& error) {
    functions.error = error.what();
  }
  return functions_[ids] = std::move(functions);
}

std::unique_ptr<const FunctionRegistry> ShippedLibraries::load(const std::vector<Id>& ids,
                                                               const OpenPayload& job) {
  std::vector<std::string> names;
  try {
    names = unpack_value<std::vector<std::string>>(job.body);
  } catch (const PackError& error) {
    throw PluginError(fmt::format("the job's list of libraries cannot be read: {}", error.what()));
  }
  if (names.size() != ids.size()) {
    throw PluginError(
        fmt::format("the job names {} libraries and brought {}", names.size(), ids.size()));
  }
  load_all(names, job.blobs);
  auto made = std::make_unique<FunctionRegistry>(own_.max_result_bytes());
  bool any = false;
  for (const Id& id : ids) {
    const Library& library = libraries_.at(id);
    any = made->take_functions(library.handle, library.name) || any;
  }
  if (!any) {
    throw PluginError(fmt::format(
        "none of the job's libraries ({}) is a Muster plug-in of this version (they do not define "
        "{}): build one with MUSTER_PLUGIN from this version's <muster/task.hpp>",
        fmt::join(names, ", "), MUSTER_PLUGIN_SYMBOL));
  }
  return made;
}

// One that needs another of them loads once that one is there.
void ShippedLibraries::load_all(const std::vector<std::string>& names,
                                std::span<const Blob> blobs) {
  std::vector<std::size_t> left;
  for (std::size_t i = 0; i < names.size(); ++i) left.push_back(i);
  while (!left.empty()) {
    std::vector<std::size_t> again;
    std::string first_error;
    for (const std::size_t i : left) {
      const std::string error = load_one(names[i], blobs[i]);
      if (error.empty()) continue;
      again.push_back(i);
      if (first_error.empty()) first_error = error;
    }
    if (again.size() == left.size()) throw PluginError(first_error);
    left = std::move(again);
  }
}

// Returns an error text, empty: it is loaded.
std::string ShippedLibraries::load_one(const std::string& name, const Blob& blob) {
  if (libraries_.count(id_of(blob)) > 0) return {};
  const detail::BlobFile::Opened opened = blob.file()->open();
  Descriptor file(opened.descriptor);
  struct stat facts {};
  const bool whole = opened.offset_bytes == 0 && ::fstat(file.get(), &facts) == 0 &&
                     static_cast<std::uint64_t>(facts.st_size) == blob.size();
  void* handle = whole ? open_library(std::move(file)) : nullptr;
  // File systems for data are often mounted without permission to execute.
  if (handle == nullptr) handle = open_library(copy_in_memory(name, blob.bytes()));
  if (handle == nullptr) {
    return fmt::format(
        "cannot load the job's library '{}' on this node: {}; build it for this machine, and ship "
        "the libraries that it needs along with it",
        name, loader_error(name));
  }
  libraries_[id_of(blob)] = {name, handle};
  return {};
}

}  // namespace muster
