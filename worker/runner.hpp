// The life of a runner: takes tasks from the worker daemon over descriptor 3, runs one after
// another on the calling thread, and writes each outcome before it starts the next task.
//
// A second thread reads the link, so that tasks which have not started can be taken back while one
// runs. When the daemon is gone the process ends at once.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "worker/frame_link.hpp"
#include "worker/lease.hpp"
#include "worker/plugin.hpp"

namespace muster {

class Runner {
 public:
  // `functions` outlives the runner.
  Runner(int link, const FunctionRegistry& functions) : link_(link), functions_(functions) {}

  // Never returns: ends the process when the link is closed.
  [[noreturn]] void run();

 private:
  void read_link();
  void receive(Message&& message);
  void take_back(const message::Recall& recall);
  TaskStart next_task();
  void write(const Message& message);

  int link_;
  const FunctionRegistry& functions_;
  std::map<std::pair<SessionId, JobId>, std::shared_ptr<const JobSpec>> jobs_;  // reader's
  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<TaskStart> queue_;
  std::mutex write_mutex_;
};

}  // namespace muster
