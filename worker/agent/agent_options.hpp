// What an agent is told once: the worker that it speaks for, and how it works. Plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "common/protocol/ids.hpp"
#include "common/time.hpp"

namespace muster {

struct AgentOptions {
  WorkerId worker;       // random, new at every start of the daemon
  std::string node;      // host name
  std::string executor;  // "thread" or "process"
  std::uint32_t process_id = 0;
  std::uint32_t slots = 1;
  std::uint32_t cores = 1;         // that this process may use
  std::uint64_t memory_bytes = 0;  // that its tasks may use together; 0: not known
  std::uint32_t gpus = 0;
  std::vector<std::string> labels;
  std::string python;  // "3.11": runs python functions on it; empty: none
  bool runs_commands = true;
  std::vector<std::string> functions;  // native functions offered
  // Not empty: nobody is obeyed, nor told more than HELLO, before a WELCOME with this text.
  std::string proof;
  // The executor gets this much work per slot ahead of time: more than the loop's round trip, so
  // that slots never wait for it, and little enough that a RECALL still finds the rest unstarted.
  Duration start_window = std::chrono::milliseconds(1);
  // Outcomes wait for others up to this long while every slot has work and more is queued here:
  // nobody is idle for want of them, and a message for several costs each a fraction.
  Duration outcome_window = std::chrono::milliseconds(3);
};

}  // namespace muster
