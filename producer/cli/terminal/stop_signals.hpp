// SIGINT, SIGTERM, SIGHUP and SIGPIPE for a program that waits in a loop. The first of SIGINT,
// SIGTERM and SIGHUP is remembered and wakes poll(); the second ends the process at once. SIGPIPE
// does nothing: the write reports EPIPE (and children start with the default, as it is no
// "ignore"). Owner: main's thread; one instance at a time, because a process has one set of
// handlers.
#pragma once

namespace muster {

class StopSignals {
 public:
  // A signal that was ignored when the process started (nohup, a shell's background job) stays so.
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that asked to stop; 0: none did.
  int received() const;
  // Readable once a signal came.
  int wake_file() const;
  // Whether a progress line stands on the terminal that an end at once must take away.
  static void line_drawn(bool drawn);
};

}  // namespace muster
