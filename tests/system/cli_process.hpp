// A program under test with its standard streams in the test's hands. Every wait has a deadline of
// kDeadline and says what was seen until then.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace muster::test {

inline constexpr std::chrono::seconds kDeadline{120};  // a busy machine with sanitizers

struct Ended {
  int status = 0;  // as a shell's $?: 128 + signal after a signal
  std::string output;
  std::string error_output;
};

// True as soon as `condition` holds; false after kDeadline.
bool wait_until(const std::function<bool()>& condition);

class Process {
 public:
  struct Setup {
    std::vector<std::string> argv;
    std::vector<std::pair<std::string, std::string>> environment;
    std::string directory;    // empty: the test's own
    std::string output_file;  // standard output goes there instead
    bool terminal = false;    // all three streams are one pseudo-terminal
  };
  // Starts it in a process group of its own (with `terminal`: a session of its own).
  explicit Process(const Setup& setup);
  // Kills the whole group.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void type(const std::string& text);
  void close_input();
  // Whether `text` comes on standard output before the deadline.
  bool wait_for_output(const std::string& text);
  bool wait_for_error_output(const std::string& text);
  // Nobody reads its standard output from now on.
  void close_output();
  void send(int signal) const;
  // As the terminal does on Ctrl-C: the whole group.
  void send_to_group(int signal) const;
  // Waits for its end; after the deadline kills it and reports status -1.
  Ended finish();
  pid_t id() const { return id_; }
  const std::string& output() const { return output_; }

 private:
  bool wait_for(const std::string& text, const std::string& where);
  bool pump(std::chrono::milliseconds timeout);
  pid_t id_ = -1;
  int input_ = -1;
  int output_file_ = -1;
  int error_file_ = -1;
  bool waited_ = false;
  std::string output_;
  std::string error_output_;
};

// Runs it with `input` as standard input, to its end.
Ended run_process(const Process::Setup& setup, const std::string& input = "");

}  // namespace muster::test
