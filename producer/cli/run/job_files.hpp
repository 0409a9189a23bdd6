// The files of jobs: what `--in` sends along and `--out` brings back. A job runs in a folder of its
// own, where it finds its inputs and leaves its outputs.
//
// A file has two names: the one here, and the one in the job's folder. They are the same when the
// name is relative and does not lead out of the current directory; else the second one is what
// follows the last "/./" of the first, or its base name.
// Owner: run.cpp; one thread. Blocking: on disk input and output.
#pragma once

#include <cstdint>
#include <map>
#include <muster/producer.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "producer/cli/run/command_template.hpp"
#include "producer/cli/run/run_options.hpp"

namespace muster {

struct JobFile {
  std::string here;
  std::string there;
  bool constant = false;  // the same for every job
};

struct JobFileList {
  std::vector<JobFile> inputs;
  std::vector<JobFile> outputs;
};

// The name of a file in the job's folder; empty: it cannot be one.
std::string name_in_folder(std::string_view path);

class JobFiles {
 public:
  explicit JobFiles(const RunOptions& options);

  bool none() const { return inputs_.empty() && outputs_.empty(); }
  // The files of the job of this input. Throws std::runtime_error when a name cannot be used or an
  // input is not there, and says which.
  JobFileList list(std::string_view input, std::uint64_t number) const;
  // The same for files that all jobs share, and for those of every input that is known.
  void check(const std::vector<std::string>& inputs) const;
  // Bytes of the job's inputs that are not in the pool yet.
  std::uint64_t bytes_to_send(const JobFileList& files) const;
  // Puts the inputs into the pool. Throws Error.
  std::vector<Blob> send(Producer& producer, const JobFileList& files);
  // Writes the outputs, each at once and whole. `names` and `blobs` are what the job made. Returns
  // what went wrong; empty: nothing.
  std::string receive(const JobFileList& files, const std::vector<std::string>& names,
                      const std::vector<Blob>& blobs) const;

 private:
  std::vector<WordTemplate> inputs_;
  std::vector<WordTemplate> outputs_;
  std::map<std::string, Blob> shared_;  // constant inputs, by their name here
};

}  // namespace muster
