#include "producer/cli/run/joblog.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <stdexcept>

namespace muster {
namespace {

constexpr std::size_t kFieldCount = 9;

template <typename Number>
bool parse_number(std::string_view text, Number& value) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string plain_path(const std::string& path) {
  return path.starts_with('+') ? path.substr(1) : path;
}

}  // namespace

std::string format_joblog(const JoblogEntry& entry) {
  std::string command = entry.command;
  std::replace(command.begin(), command.end(), '\n', '\0');
  return fmt::format("{}\t{}\t{:.3f}\t{:10.3f}\t{}\t{}\t{}\t{}\t{}\n", entry.number, entry.host,
                     entry.start_seconds, entry.runtime_seconds, entry.sent_bytes,
                     entry.received_bytes, entry.exit_status, entry.signal, command);
}

std::optional<JoblogEntry> parse_joblog(std::string_view line) {
  std::array<std::string_view, kFieldCount> fields;
  for (std::size_t index = 0; index + 1 < kFieldCount; ++index) {
    const auto tab = line.find('\t');
    if (tab == std::string_view::npos) return std::nullopt;
    fields[index] = line.substr(0, tab);
    line.remove_prefix(tab + 1);
  }
  fields.back() = line;
  JoblogEntry entry;
  const bool numbers =
      parse_number(fields[0], entry.number) && parse_number(fields[2], entry.start_seconds) &&
      parse_number(fields[3], entry.runtime_seconds) && parse_number(fields[4], entry.sent_bytes) &&
      parse_number(fields[5], entry.received_bytes) && parse_number(fields[6], entry.exit_status) &&
      parse_number(fields[7], entry.signal);
  if (!numbers) return std::nullopt;
  entry.host = fields[1];
  entry.command = fields[8];
  std::replace(entry.command.begin(), entry.command.end(), '\0', '\n');
  return entry;
}

std::unordered_set<std::uint64_t> jobs_to_skip(std::string_view log, Resume resume) {
  std::unordered_set<std::uint64_t> skip;
  if (resume == Resume::no) return skip;
  while (!log.empty()) {
    const auto end = log.find('\n');
    if (end == std::string_view::npos) break;  // cut short: that job counts as unfinished
    const auto entry = parse_joblog(log.substr(0, end));
    log.remove_prefix(end + 1);
    if (!entry) continue;
    const bool succeeded = entry->exit_status == 0 && entry->signal == 0;
    if (resume == Resume::unfinished || succeeded) {
      skip.insert(entry->number);
    } else {
      skip.erase(entry->number);
    }
  }
  return skip;
}

JoblogFile::JoblogFile(const std::string& path, bool append) : path_(plain_path(path)) {
  const bool keep = append || path.starts_with('+');
  std::string before;
  if (keep) before = read_whole_file(path_);
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (keep ? O_APPEND : O_TRUNC);
  file_ = ::open(path_.c_str(), flags, 0666);
  if (file_ < 0) {
    throw std::runtime_error(
        fmt::format("cannot write the job log {}: {}", path_, std::strerror(errno)));
  }
  bool good = true;
  if (before.empty()) {
    good = write_text(kJoblogHeader);
  } else if (before.back() != '\n') {
    good = write_text("\n");
  }
  if (!good) {
    ::close(file_);
    throw std::runtime_error(error_);
  }
}

JoblogFile::~JoblogFile() { ::close(file_); }

bool JoblogFile::write(const JoblogEntry& entry) { return write_text(format_joblog(entry)); }

bool JoblogFile::write_text(std::string_view text) {
  while (!text.empty()) {
    const auto written = ::write(file_, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      error_ = fmt::format("cannot write the job log {}: {}", path_, std::strerror(errno));
      return false;
    }
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

std::string read_whole_file(const std::string& path) {
  const int file = ::open(plain_path(path).c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    if (errno == ENOENT) return {};
    throw std::runtime_error(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
  }
  struct stat status = {};
  std::string text;
  if (::fstat(file, &status) == 0 && !S_ISREG(status.st_mode)) {  // /dev/null, a pipe
    ::close(file);
    return text;
  }
  std::array<char, 65536> chunk;
  for (;;) {
    const auto size = ::read(file, chunk.data(), chunk.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) {
      const int error = errno;
      ::close(file);
      throw std::runtime_error(fmt::format("cannot read {}: {}", path, std::strerror(error)));
    }
    if (size == 0) break;
    text.append(chunk.data(), static_cast<std::size_t>(size));
  }
  ::close(file);
  return text;
}

}  // namespace muster
