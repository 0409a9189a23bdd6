// Child processes with a lifeline: starts them, relays their standard error, starts them again when
// they end, and ends them.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/system/descriptor.hpp"
#include "common/system/process_end.hpp"

namespace muster::detail {

class Supervisor {
 public:
  // The number under which each child finds the read end of the lifeline.
  static constexpr int kLifelineDescriptor = 3;

  using Environment = std::vector<std::pair<std::string, std::string>>;

  // `environment` is added to this process's, for the children.
  explicit Supervisor(const Environment& environment = {});
  ~Supervisor();  // ends every child, see Embedded
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Starts `argv`, in a process group of its own; throws Error unusable.
  void start(std::vector<std::string> argv);
  // Starts to relay, also what is started later. Call once.
  void run();
  // What the first child that ended said last; empty: all live.
  std::string obituary() const;
  // Which ended children are started again: by default all, for ever. Each waits 100 ms, and twice
  // as long after every death within ten seconds of its start, up to five seconds.
  struct Keep {
    bool only_crashed = false;  // not those that ended with status 0, or 2: they cannot start
    int most_quick_deaths = 0;  // in a row; then the child stays dead. 0: no limit
  };
  // From now on standard error is passed on and ended children are started again.
  void keep_alive() { keep_alive(Keep()); }
  void keep_alive(Keep keep);
  // Whether every child that ended did so with status 0.
  bool ended_well() const;
  // Becomes readable when some child ended and none of those that ended is started again.
  int over_descriptor() const { return over_.get(); }
  // How long children may take to end after their lifeline closed; two seconds unless set.
  void set_grace(std::chrono::milliseconds grace);

 private:
  using Clock = std::chrono::steady_clock;
  struct Child {
    std::vector<std::string> argv;
    pid_t process = -1;            // -1: ended
    Descriptor errors;             // read end of its standard error
    std::string tail;              // its last words
    Clock::time_point start_at{};  // of the present process, or when the next may start
    std::chrono::milliseconds pause{100};
    ExitStatus status;
    int quick_deaths = 0;
    bool stays_dead = false;
  };

  void spawn(Child& child);
  void wake();
  void relay();
  void read_errors(Child& child);
  void reap(Child& child);
  void consider(Child& child);
  void restart_ended();
  void end_children();

  const std::vector<std::string> environment_;  // NAME=VALUE
  Descriptor lifeline_read_;
  Descriptor lifeline_write_;
  Descriptor wake_;
  Descriptor over_;
  mutable std::mutex mutex_;
  std::vector<Child> children_;
  bool keep_alive_ = false;
  Keep keep_;
  bool stopping_ = false;
  std::chrono::milliseconds grace_{2'000};
  std::thread thread_;
};

}  // namespace muster::detail
