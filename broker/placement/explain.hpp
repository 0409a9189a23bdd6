// Why the tasks of a job wait although nothing of it runs, as people are told. A reader of the
// books; looking a job up may fill their caches. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "broker/books/books.hpp"
#include "common/time.hpp"

namespace muster {

class Explain {
 public:
  explicit Explain(Books& books) : books_(books) {}
  Explain(const Explain&) = delete;
  Explain& operator=(const Explain&) = delete;

  struct Reason {
    std::string text = {};                // empty: its turn comes
    Duration patience = Duration::max();  // its tasks fail when that holds for so long …
    const char* kind = "no_worker";       // … with this kind
  };
  // Looks at all workers. Call before why(), after they have changed.
  void look();
  // Precondition: the job has tasks in the queue and none leased.
  Reason why(JobRecord& job);

 private:
  struct ClassRoom {  // of the workers of a class together
    std::uint64_t stuck_slots = 0;
    std::uint64_t usable_slots = 0;
    std::string paused;  // one that pauses, and why
  };
  std::string no_slot(JobRecord& job) const;
  std::string nobody_offers(const JobSpec& spec, const char*& kind);
  const std::string& offered_functions();
  std::string nobody_interprets(const Function& function) const;
  std::string nobody_is_large_enough(JobRecord& job) const;
  std::string nobody_has_room(const Demand& demand) const;

  Books& books_;
  std::vector<ClassRoom> class_rooms_;
  std::string offered_functions_;  // by the workers of this generation
  std::uint64_t offered_generation_ = 0;
};

}  // namespace muster
