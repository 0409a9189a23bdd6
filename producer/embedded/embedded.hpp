// The embedded default: a private broker and its workers, started as child processes in a folder of
// their own. They end when this process ends, however it ends: each holds the read end of a
// "lifeline" pipe whose write end only this process has.
//
// Owner: a Producer. Threads: one at a time; a thread of its own relays the children's standard
// error and starts a child again that ended (a task may take the worker down).
#pragma once

#include <cstdint>
#include <memory>
#include <muster/producer.hpp>
#include <string>

namespace muster::detail {

class Supervisor;

class Embedded {
 public:
  // Starts the programs; throws Error unusable when they are not found or cannot be started.
  explicit Embedded(const Options& options);
  // Closes the lifeline; after two seconds, with nodes six, kills what is left; removes the folder.
  ~Embedded();
  Embedded(const Embedded&) = delete;
  Embedded& operator=(const Embedded&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  std::uint32_t total_slots() const { return total_slots_; }
  // Throws Error unusable, with its last words, when a child ended since the start.
  void check_alive() const;
  // From now on the children's standard error is this process's, and a child that ends is started
  // again.
  void started();
  // The broker gets time at the end to end the workers on other machines.
  void has_nodes();

 private:
  void start(const Options& options, const std::string& broker, const std::string& worker);

  void await_socket() const;

  std::uint32_t total_slots_ = 0;
  std::string folder_;
  std::string endpoint_;
  std::unique_ptr<Supervisor> supervisor_;
};

}  // namespace muster::detail
