// The job log: GNU parallel's --joblog format, written job by job and read back by --resume.
// `format_joblog`, `parse_joblog` and `jobs_to_skip` are pure. JoblogFile belongs to one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>

namespace muster {

inline constexpr std::string_view kJoblogHeader =
    "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";

struct JoblogEntry {
  std::uint64_t number = 0;  // of the input, counted from 1
  std::string host;          // ":" is this machine
  double start_seconds = 0;  // since 1970, on the node
  double runtime_seconds = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;  // standard output
  int exit_status = 0;               // -1: killed by a time-out, or lost with its worker
  int signal = 0;
  std::string command;
};

// One line with its end; an end of line inside the command becomes a NUL, as GNU parallel does.
std::string format_joblog(const JoblogEntry& entry);
// Nothing: the line is not a job's (the header, or a line cut short by a crash).
std::optional<JoblogEntry> parse_joblog(std::string_view line);

enum class Resume {
  no,
  unfinished,  // run what the log does not mention
  failed,      // ... and what it says failed
};
// The numbers of the jobs that need not run again. The last entry about a job counts.
std::unordered_set<std::uint64_t> jobs_to_skip(std::string_view log, Resume resume);

class JoblogFile {
 public:
  // Opens the log at `path` or starts it; throws std::runtime_error that names the file. `append`
  // or a plus sign in front of the path keeps what is there.
  JoblogFile(const std::string& path, bool append);
  ~JoblogFile();
  JoblogFile(const JoblogFile&) = delete;
  JoblogFile& operator=(const JoblogFile&) = delete;

  // Hands the line to the system at once. False: it could not be written; see `error`.
  bool write(const JoblogEntry& entry);
  const std::string& error() const { return error_; }

 private:
  bool write_text(std::string_view text);
  std::string path_;
  std::string error_;
  int file_ = -1;
};

// The whole text of the file at `path` (a plus sign in front is left out); empty when there is no
// such file or it is not a regular one. Throws std::runtime_error that names it when it is
// unreadable.
std::string read_whole_file(const std::string& path);

}  // namespace muster
