// Plug-in libraries that a producer sent along with a job: loaded from their blobs, once per
// process, for the life of the process.
//
// The functions are those of the jobs that brought exactly these libraries: two jobs with different
// libraries of one name do not mix. What stays common to the process, as with any library: the
// libraries that these need themselves, and symbols that the program itself has.
//
// Owner: what runs native tasks. Threads: any, at once. Blocking: on disk input.
#pragma once

#include <map>
#include <memory>
#include <muster/blob.hpp>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/blobs/task_blobs.hpp"
#include "worker/runner/plugin.hpp"

namespace muster {

class ShippedLibraries {
 public:
  // `own`: the worker's functions. It outlives this.
  explicit ShippedLibraries(const FunctionRegistry& own) : own_(own) {}

  // The function of a job that brought these, or why there is none. `job.body` is a packed array of
  // the libraries' names, `job.blobs` their contents in the same order; those that others need may
  // stand anywhere among them. A job's own functions go before the worker's. Valid as long as this.
  struct Found {
    const RawFunction* function = nullptr;
    std::optional<Failure> failure;
  };
  Found find(const std::string& name, const OpenPayload& job);
  // Of a job that brought none.
  Found find(const std::string& name) const;

 private:
  using Id = std::pair<std::uint64_t, std::uint64_t>;
  struct Library {
    std::string name;
    void* handle = nullptr;
  };
  struct Functions {
    std::unique_ptr<const FunctionRegistry> registry;
    std::string error;  // why there are none
  };

  const Functions& functions_of(const OpenPayload& job);
  std::unique_ptr<const FunctionRegistry> load(const std::vector<Id>& ids, const OpenPayload& job);
  void load_all(const std::vector<std::string>& names, std::span<const Blob> blobs);
  std::string load_one(const std::string& name, const Blob& blob);

  const FunctionRegistry& own_;
  std::mutex mutex_;  // guards what follows
  std::map<Id, Library> libraries_;
  std::map<std::vector<Id>, Functions> functions_;  // by the libraries, in their order
};

}  // namespace muster
