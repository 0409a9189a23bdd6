// The folder of one command that has input or output files: made for it, and removed with whatever
// the command left in it.
//
// Inputs stand there as links to files that this process holds open, so they are valid whatever
// becomes of the names of their blobs; the command may not write to them. Outputs become blobs.
// Owner: the command executor, on the loop's thread; blocks on disk input and output.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/protocol/codec.hpp"
#include "common/system/descriptor.hpp"
#include "worker/blobs/blob_from_file.hpp"
#include "worker/blobs/task_blobs.hpp"

namespace muster {

// The files of a command cannot be had; says which and why.
class CommandFileError : public std::runtime_error {
 public:
  CommandFileError(const char* failure_kind, const std::string& text)
      : std::runtime_error(text), kind(failure_kind) {}
  const char* const kind;
};

class CommandFiles {
 public:
  // Makes the folder and the inputs. Throws CommandFileError or BlobError.
  CommandFiles(const TaskBlobs& blobs, const CommandTask& task, const std::vector<Blob>& inputs);
  ~CommandFiles();
  CommandFiles(const CommandFiles&) = delete;
  CommandFiles& operator=(const CommandFiles&) = delete;

  const std::string& folder() const { return folder_; }
  const std::vector<std::string>& output_names() const { return output_names_; }
  // After the command's end: goes on with its output files, for about `most_bytes`. True: all are
  // there. Throws CommandFileError or BlobError.
  bool collect(std::uint64_t most_bytes);
  // Of all output files, in order. Precondition: `collect` said so.
  const std::vector<Blob>& outputs() const { return outputs_; }

 private:
  void place_input(const std::string& name, const Blob& blob);
  void make_parents(const std::string& name) const;
  std::string path_of(const std::string& name) const { return folder_ + "/" + name; }

  const TaskBlobs& blobs_;
  const std::vector<std::string> output_names_;
  std::string folder_;
  std::vector<Descriptor> held_;  // what the links of inputs lead to
  std::vector<Blob> outputs_;
  std::unique_ptr<BlobFromFile> current_;  // the next output
};

}  // namespace muster
