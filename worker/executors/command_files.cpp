#include "worker/executors/command_files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <unordered_set>

namespace muster {
namespace {

// Whether a name stays within the folder that it is relative to.
bool stays_inside(std::string_view name) {
  if (name.empty() || name.size() > limits::kMaxPathBytes || name.front() == '/' ||
      name.find('\0') != std::string_view::npos) {
    return false;
  }
  while (true) {
    const std::size_t end = name.find('/');
    const std::string_view part = name.substr(0, end);
    if (part.empty() || part == "." || part == "..") return false;
    if (end == std::string_view::npos) return true;
    name.remove_prefix(end + 1);
  }
}

void check_names(const CommandTask& task, std::size_t blobs) {
  if (task.inputs.size() != blobs) {
    throw CommandFileError("bad_arguments", fmt::format("the command names {} input files and has "
                                                        "{}",
                                                        task.inputs.size(), blobs));
  }
  if (!task.directory.empty()) {
    throw CommandFileError("bad_arguments",
                           "a command with input or output files runs in a folder of its own: "
                           "name no directory");
  }
  std::unordered_set<std::string_view> seen;
  for (const std::vector<std::string>* names : {&task.inputs, &task.outputs}) {
    for (const std::string& name : *names) {
      if (!stays_inside(name)) {
        throw CommandFileError(
            "bad_arguments",
            fmt::format("'{}' cannot be the name of a command's file: give a path relative to the "
                        "command's folder, without . and ..",
                        name));
      }
      if (!seen.insert(name).second) {
        throw CommandFileError("bad_arguments",
                               fmt::format("two of the command's files are called '{}'", name));
      }
    }
  }
}

std::string make_folder() {
  const char* place = std::getenv("TMPDIR");
  const bool usable = place != nullptr && *place == '/';
  std::string folder = fmt::format("{}/muster-command-XXXXXX", usable ? place : "/tmp");
  if (::mkdtemp(folder.data()) == nullptr) {
    throw CommandFileError("start_failed",
                           fmt::format("cannot make a folder '{}' for the command's files: {}; set "
                                       "TMPDIR for the worker to one that it may write",
                                       folder, std::strerror(errno)));
  }
  return folder;
}

// A part of a file has no name of its own: it becomes a file.
Descriptor copy_of(const std::string& path, const Blob& blob) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400));
  const Bytes content = blob.bytes();
  std::string_view rest = content.text();
  while (file && !rest.empty()) {
    const ssize_t written = ::write(file.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return {};
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return file;
}

}  // namespace

CommandFiles::CommandFiles(const TaskBlobs& blobs, const CommandTask& task,
                           const std::vector<Blob>& inputs)
    : blobs_(blobs), output_names_(task.outputs) {
  check_names(task, inputs.size());
  if (!output_names_.empty() && !blobs.available()) {
    throw CommandFileError("start_failed", "this worker keeps no blobs, which output files become");
  }
  folder_ = make_folder();
  try {
    for (std::size_t i = 0; i < inputs.size(); ++i) place_input(task.inputs[i], inputs[i]);
    for (const std::string& name : output_names_) make_parents(name);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    throw;
  }
}

CommandFiles::~CommandFiles() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void CommandFiles::make_parents(const std::string& name) const {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path_of(name)).parent_path(), error);
  if (!error) return;
  throw CommandFileError("start_failed", fmt::format("cannot make the folder of the command's file "
                                                     "'{}': {}",
                                                     name, error.message()));
}

void CommandFiles::place_input(const std::string& name, const Blob& blob) {
  make_parents(name);
  const detail::BlobFile::Opened opened = blob.file()->open();
  Descriptor file(opened.descriptor);
  struct stat facts {};
  const bool whole = opened.offset_bytes == 0 && ::fstat(file.get(), &facts) == 0 &&
                     static_cast<std::uint64_t>(facts.st_size) == blob.size();
  bool placed = false;
  if (whole) {
    const std::string target = fmt::format("/proc/{}/fd/{}", ::getpid(), file.get());
    placed = ::symlink(target.c_str(), path_of(name).c_str()) == 0;
    held_.push_back(std::move(file));
  } else {
    placed = static_cast<bool>(copy_of(path_of(name), blob));
  }
  if (placed) return;
  throw CommandFileError("start_failed", fmt::format("cannot put the command's input '{}' into "
                                                     "'{}': {}",
                                                     name, folder_, std::strerror(errno)));
}

bool CommandFiles::collect(std::uint64_t most_bytes) {
  while (outputs_.size() < output_names_.size()) {
    const std::string& name = output_names_[outputs_.size()];
    if (current_ == nullptr) {
      try {
        current_ = std::make_unique<BlobFromFile>(blobs_, path_of(name));
      } catch (const BlobError& error) {
        throw CommandFileError(
            "missing_output", fmt::format("the command ended well without its output file '{}': {}",
                                          name, error.what()));
      }
    }
    const std::uint64_t size_bytes = current_->size_bytes();
    Blob blob = current_->step(most_bytes);
    if (!blob) return false;
    most_bytes -= std::min(size_bytes, most_bytes);
    outputs_.push_back(std::move(blob));
    current_.reset();
  }
  return true;
}

}  // namespace muster
