// The jobs that want leases: those that may find room, in the order in which it is their turn, and
// apart from them those that found none. Part of the scheduler, pure.
//
// The order is fair between users first; of one user's jobs the higher priorities come first, then
// it is fair between sessions and jobs. Cost: O(log users + log jobs).
//
// A job that found no room waits in a *group* with others that need the same kind of worker, and
// costs nothing there, until a worker of a class that may run it has more room than before. Then
// some of the group, of each user, are looked at again; none waits for ever, whatever others want.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "broker/books/user_table.hpp"

namespace muster {

struct JobRecord;

struct WaitGroup {
  using Jobs = std::map<RunKey, JobRecord*>;
  struct Waiters {
    Jobs jobs;
    RunKey looked{};  // the last one whose turn it was
  };
  std::map<std::uint64_t, Waiters> users;  // by number; those that have jobs here
  // Its jobs find room apart from each other: the first in order may wait while others do not.
  bool differs = false;
  std::uint64_t number = 0;  // 0: none waited yet
  std::uint32_t need = 0;    // free slots that a task of it takes at least; 0: it may queue up, too
  std::uint64_t generation = 0;  // of the worker classes that it is listed at; 0: at none

  template <typename Predicate>  // predicate(const JobRecord&)
  bool any_of(Predicate&& predicate) const {
    for (const auto& [user, waiters] : users) {
      for (const auto& [key, job] : waiters.jobs) {
        if (predicate(*job)) return true;
      }
    }
    return false;
  }
};

class RunQueue {
 public:
  // --- Jobs that may find room
  bool empty() const { return users_.empty(); }
  // Whose turn it is. Precondition: not empty.
  JobRecord& first() const { return *users_.begin()->second->jobs.begin()->second; }
  // Of all jobs here, those that wait too.
  std::size_t size() const { return ready_ + waiting_; }
  bool contains(const JobRecord& job) const;

  // A job that had nothing to lease has some now. It does not claim the service that it did not ask
  // for meanwhile, nor does its user. Sets the values under which it is listed.
  void join(JobRecord& job);
  // Wherever it is.
  void erase(JobRecord& job);
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

  // --- Jobs that found none
  std::size_t waiting() const { return waiting_; }
  // Moves this one, which may find room, to its group. The group is woken by these classes.
  void park(JobRecord& job, WaitGroup& group, const std::vector<std::uint32_t>& classes,
            std::uint64_t generation);
  // Something about the job changed: it may find room now.
  void unpark(JobRecord& job);
  // A worker of this class has more room, and now so many free slots: the first of each group that
  // waits for it and needs no more, of each user, may find room again. Where there are many such
  // groups, it is some in turn; others cost nothing.
  void wake(std::uint32_t class_index, std::uint64_t free_slots);
  // A task of this group needs fewer free slots than was said.
  void set_need(WaitGroup& group, std::uint32_t need);
  // So may the next of this group in turn, of each user, whatever happened.
  void wake_some(WaitGroup& group);
  void wake_all(WaitGroup& group);
  // The classes are others now: nobody is listed, everybody must be woken.
  void forget_classes() { listed_.clear(); }
  // Before the group is destroyed. Precondition: nobody waits in it.
  void remove(const WaitGroup& group);

 private:
  using Turn = std::pair<double, std::uint64_t>;             // the user's clock and number
  using GroupKey = std::pair<std::uint32_t, std::uint64_t>;  // its need and number
  static GroupKey key_of(const WaitGroup& group) { return {group.need, group.number}; }
  struct Listed {
    std::map<GroupKey, WaitGroup*> groups;
    GroupKey looked{};  // the last group that had its turn
  };
  static Turn turn_of(const UserRecord& user) { return {user.clock, user.number}; }
  void insert(JobRecord& job);
  void erase_ready(JobRecord& job);
  void take_out(JobRecord& job);
  void wake_first(WaitGroup& group);
  void wake_from(WaitGroup& group, std::uint64_t user, RunKey from);

  std::map<Turn, UserRecord*> users_;  // those that have jobs which may find room
  std::size_t ready_ = 0;
  std::size_t waiting_ = 0;
  double now_ = 0;                          // the clock of the user who was charged last
  std::map<std::uint32_t, Listed> listed_;  // by worker class
  std::uint64_t last_number_ = 0;
};

}  // namespace muster
