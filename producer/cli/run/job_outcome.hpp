// What became of one command: a stream item read as exit status, output and times. Pure.
#pragma once

#include <chrono>
#include <muster/bytes.hpp>
#include <muster/producer.hpp>
#include <string>
#include <vector>

namespace muster {

struct JobOutcome {
  bool cancelled = false;  // it did not run to its end because the run was stopped
  int exit_status = 0;     // -1: timed out, lost, or ended by the pool
  int signal = 0;
  Bytes output;
  Bytes error_output;
  bool truncated = false;
  std::string host;  // empty: not known
  double start_seconds = 0;
  double runtime_seconds = 0;
  std::vector<std::string> outputs;  // the files that it made, in the order of the item's blobs
  std::string complaint;             // what Muster says about it on standard error; empty: nothing

  bool succeeded() const { return !cancelled && exit_status == 0 && signal == 0; }
  // What a shell would call $?: 128 + signal after a signal, 255 when there is no exit status.
  int shell_status() const;
};

// `now_seconds` (since 1970) and `timeout` stand in for the times of a command that was killed.
JobOutcome read_outcome(const StreamItem& item, double now_seconds,
                        std::chrono::milliseconds timeout);

// One line for a person who is to do something about an error of the pool itself.
std::string advice(const Error& error, const std::string& endpoint);

}  // namespace muster
