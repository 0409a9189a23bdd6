// The embedded default: a private broker and one worker, started as child processes in a folder of
// their own. They end when this process ends, however it ends: each holds the read end of a
// "lifeline" pipe whose write end only this process has.
//
// Owner: a Producer. Threads: one at a time; a thread of its own relays the children's standard
// error and starts a child again that ended (a task may take the worker down).
#pragma once

#include <memory>
#include <muster/producer.hpp>
#include <string>

namespace muster::detail {

class Supervisor;

class Embedded {
 public:
  // Starts both programs; throws Error unusable when they are not found or cannot be started.
  explicit Embedded(const Options& options);
  // Closes the lifeline; after two seconds kills what is left; removes the folder.
  ~Embedded();
  Embedded(const Embedded&) = delete;
  Embedded& operator=(const Embedded&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  unsigned slots() const { return slots_; }
  // Throws Error unusable, with its last words, when a child ended since the start.
  void check_alive() const;
  // From now on the children's standard error is this process's, and a child that ends is started
  // again.
  void started();

 private:
  unsigned slots_;
  std::string folder_;
  std::string endpoint_;
  std::unique_ptr<Supervisor> supervisor_;
};

}  // namespace muster::detail
