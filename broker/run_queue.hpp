// The jobs that have something to lease, in the order in which it is their turn: fair between users
// first; of one user's jobs the higher priorities first, then fair between sessions and jobs. Part
// of the scheduler, pure. Cost: O(log users + log jobs).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "broker/job_table.hpp"

namespace muster {

class RunQueue {
 public:
  bool empty() const { return users_.empty(); }
  std::size_t size() const { return size_; }
  bool contains(const JobRecord& job) const;
  // Whose turn it is. Precondition: not empty.
  JobRecord& first() const { return *users_.begin()->second->jobs.begin()->second; }

  // A job that had nothing to lease has some now. It does not claim the service that it did not ask
  // for meanwhile, nor does its user. Sets the values under which it is listed.
  void join(JobRecord& job);
  // Takes it out; insert() puts it back where it was.
  void erase(JobRecord& job);
  void insert(JobRecord& job);
  // It had its turn: later jobs of its user begin from there.
  static void pass(const JobRecord& job);
  // Tasks of the job were leased that take so many slots. The time counts as often for the job as
  // its session has jobs, and once for its user.
  void charge(JobRecord& job, std::uint64_t slots);

  template <typename Predicate>  // predicate(const JobRecord&)
  bool any_of(Predicate&& predicate) const {
    for (const auto& [turn, user] : users_) {
      for (const auto& [key, job] : user->jobs) {
        if (predicate(*job)) return true;
      }
    }
    return false;
  }

 private:
  using Turn = std::pair<double, std::uint64_t>;  // the user's clock and number
  static Turn turn_of(const UserRecord& user) { return {user.clock, user.number}; }

  std::map<Turn, UserRecord*> users_;  // those that have jobs here
  std::size_t size_ = 0;
  double now_ = 0;  // the clock of the user who was charged last
};

}  // namespace muster
