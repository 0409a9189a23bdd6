#include "producer/cli/run/job_files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <stdexcept>

#include "common/system/descriptor.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kWriteBytes = std::size_t{8} << 20;

// Throws when it is not a file that can be read; returns its size.
std::uint64_t check_input(const std::string& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0 || ::access(path.c_str(), R_OK) != 0) {
    throw std::runtime_error(fmt::format("--in: cannot read {}: {}", path, std::strerror(errno)));
  }
  if (S_ISDIR(facts.st_mode)) {
    throw std::runtime_error(
        fmt::format("--in: {} is a directory: name its files, or pack it into one (tar)", path));
  }
  if (!S_ISREG(facts.st_mode)) throw std::runtime_error("--in: " + path + " is not a regular file");
  return static_cast<std::uint64_t>(facts.st_size);
}

void check_output(const std::string& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode)) {
    throw std::runtime_error(fmt::format(
        "--out: {} is a directory: name the file that a job makes, as {}/{{/}}", path, path));
  }
}

std::vector<WordTemplate> templates(const std::vector<std::string>& words) {
  std::vector<WordTemplate> parsed;
  for (const std::string& word : words) parsed.emplace_back(word);
  return parsed;
}

// The files of one list; `taken` are names in the folder that others have.
std::vector<JobFile> expand(const std::vector<WordTemplate>& words, const char* option,
                            std::string_view input, std::uint64_t number,
                            std::set<std::string>& taken) {
  std::vector<JobFile> files;
  for (const WordTemplate& word : words) {
    JobFile file{word.expand(input, number), "", word.is_constant()};
    file.there = name_in_folder(file.here);
    if (file.there.empty()) {
      throw std::runtime_error(
          fmt::format("{}: '{}' is not the name of a file", option, file.here));
    }
    if (!taken.insert(file.there).second) {
      throw std::runtime_error(
          fmt::format("{}: two files of the job would be called '{}' in its folder; what follows "
                      "'/./' is the name there, as in dir/./name",
                      option, file.there));
    }
    files.push_back(std::move(file));
  }
  return files;
}

int write_all(int descriptor, std::string_view rest) {
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor, rest.data(), std::min(rest.size(), kWriteBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

// Under another name first: nobody ever sees half a file. Returns errno, or 0.
int write_whole(const std::string& path, std::string_view content) {
  const fs::path folder = fs::path(path).parent_path();
  std::error_code failure;
  if (!folder.empty()) fs::create_directories(folder, failure);
  if (failure) return failure.value();
  const std::string name = fs::path(path).filename().string().substr(0, 200);
  const std::string unfinished = (folder / fmt::format(".{}.{}", name, ::getpid())).string();
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW;
  Descriptor file(::open(unfinished.c_str(), flags, 0666));
  if (!file) return errno;
  int error = write_all(file.get(), content);
  if (error == 0 && ::rename(unfinished.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) ::unlink(unfinished.c_str());
  return error;
}

}  // namespace

std::string name_in_folder(std::string_view path) {
  constexpr std::string_view kMark = "/./";
  if (const auto mark = path.rfind(kMark); mark != std::string_view::npos) {
    path.remove_prefix(mark + kMark.size());
  }
  if (path.empty() || path.back() == '/') return "";
  const fs::path normal = fs::path(path).lexically_normal();
  const bool outside = normal.is_absolute() || *normal.begin() == "..";
  const std::string name = (outside ? normal.filename() : normal).string();
  return name == "." || name == ".." || name.ends_with('/') ? "" : name;
}

JobFiles::JobFiles(const RunOptions& options)
    : inputs_(templates(options.input_files)), outputs_(templates(options.output_files)) {}

JobFileList JobFiles::list(std::string_view input, std::uint64_t number) const {
  std::set<std::string> taken;
  JobFileList files;
  files.inputs = expand(inputs_, "--in", input, number, taken);
  files.outputs = expand(outputs_, "--out", input, number, taken);
  for (const JobFile& file : files.inputs) check_input(file.here);
  for (const JobFile& file : files.outputs) check_output(file.here);
  return files;
}

void JobFiles::check(const std::vector<std::string>& inputs) const {
  for (const WordTemplate& word : inputs_) {
    if (word.is_constant()) check_input(word.expand("", 1));
  }
  std::set<std::string> written;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (const JobFile& file : list(inputs[i], i + 1).outputs) {
      if (written.insert(fs::path(file.here).lexically_normal()).second) continue;
      throw std::runtime_error(fmt::format(
          "--out: several jobs would write {}; give it a part of the input, as {{/}} or {{#}}",
          file.here));
    }
  }
}

std::uint64_t JobFiles::bytes_to_send(const JobFileList& files) const {
  std::uint64_t bytes = 0;
  for (const JobFile& file : files.inputs) {
    if (shared_.count(file.here) == 0) bytes += check_input(file.here);
  }
  return bytes;
}

std::vector<Blob> JobFiles::send(Producer& producer, const JobFileList& files) {
  std::vector<Blob> blobs;
  for (const JobFile& file : files.inputs) {
    const auto known = shared_.find(file.here);
    blobs.push_back(known != shared_.end() ? known->second : producer.scatter_copy(file.here));
    if (file.constant) shared_.emplace(file.here, blobs.back());
  }
  return blobs;
}

std::string JobFiles::receive(const JobFileList& files, const std::vector<std::string>& names,
                              const std::vector<Blob>& blobs) const {
  for (const JobFile& file : files.outputs) {
    const auto found = std::find(names.begin(), names.end(), file.there);
    const auto index = static_cast<std::size_t>(found - names.begin());
    if (index >= blobs.size()) return fmt::format("it did not make {}", file.there);
    try {
      const Bytes content = blobs[index].bytes();
      const int error = write_whole(file.here, content.text());
      if (error != 0) return fmt::format("cannot write {}: {}", file.here, std::strerror(error));
    } catch (const BlobError& error) {
      return fmt::format("{} is lost: {}", file.there, error.what());
    }
  }
  return "";
}

}  // namespace muster
