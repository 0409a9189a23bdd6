// What one seed of the simulator is made of: its inhabitants, their work and what goes wrong.
#pragma once

#include <cstdint>
#include <string>

#include "common/time.hpp"

namespace muster::simulator {

// What may go wrong; every seed draws a subset.
struct Faults {
  bool link_breaks = false;     // connections break and lose what was in flight
  bool partitions = false;      // … and stay away longer than the heartbeats bear
  bool worker_crashes = false;  // a worker dies with all it knows; a new one comes
  bool broker_crashes = false;  // the broker dies and starts again with a new incarnation
  bool poison = false;          // some tasks kill their worker whenever they run
  bool errors = false;          // some tasks fail, at first or always
  bool cancels = false;
  bool caps = false;       // some jobs may only have a few leases at once
  bool output = false;     // tasks say lines
  bool resources = false;  // jobs ask for cores, memory and accelerators
  bool pauses = false;     // workers pause for a while
  bool blobs = false;      // tasks and jobs name blobs, which workers fetch and lose
  bool absences = false;   // producers and workers stay away beyond the session grace
  bool stalls = false;     // a process stands still while its clock and its connections go on
  bool half_open = false;  // a connection loses one of its two directions, and nobody is told
  bool late = false;       // a broken connection's messages arrive after its end (network.cpp)
  bool hostile = false;    // somebody says what they like beside the others (hostile.hpp)
  bool leaves = false;     // workers drain and say GOODBYE; new ones come
  bool deaths = false;     // producers say GOODBYE before they are done, or die without a word
};

struct Plan {
  std::uint64_t seed = 0;
  Faults faults;
  std::uint32_t workers = 2;
  std::uint32_t producers = 1;
  std::uint32_t jobs_per_producer = 2;
  std::uint64_t tasks_per_job = 100;
  std::uint32_t max_slots = 3;
  std::uint64_t credit_tasks = 1000;
  Duration max_task{};
  Duration max_delay{};
  Duration max_transfer{};  // of a blob
  Duration chaos{};         // faults happen until then
  bool trace = false;       // every message is printed as it arrives

  static Plan draw(std::uint64_t seed);
  std::string describe() const;
};

}  // namespace muster::simulator
