#include "broker/books/run_queue.hpp"

#include <algorithm>

#include "broker/books/job_table.hpp"
#include "common/check.hpp"

namespace muster {
namespace {

// Jobs of one user in one group, and groups, that are looked at when a worker has more room.
constexpr std::size_t kJobs = 16;
constexpr std::size_t kGroups = 64;

// Higher priorities first: ~ reverses their order, and unlike - has no value that overflows.
RunKey run_key(const JobRecord& job) { return {~job.run_priority, job.run_time, job.key}; }

constexpr RunKey kFirst{INT32_MIN, -1.0, JobKey{}};  // before every job

// Of so many tasks that take about so long.
double time_on_slots(Duration duration, std::uint64_t slots) {
  return static_cast<double>(std::max(duration, Duration(1000)).count()) *
         static_cast<double>(slots);
}

}  // namespace

bool RunQueue::contains(const JobRecord& job) const {
  const UserRecord* user = job.session->user;
  if (user == nullptr) return false;
  if (job.waits_in == nullptr) return user->jobs.count(run_key(job)) != 0;
  const auto waiters = job.waits_in->users.find(user->number);
  return waiters != job.waits_in->users.end() && waiters->second.jobs.count(run_key(job)) != 0;
}

void RunQueue::join(JobRecord& job) {
  UserRecord& user = *job.session->user;
  if (user.jobs.empty() && user.parked == 0) user.clock = std::max(user.clock, now_);
  job.virtual_time = std::max(job.virtual_time, user.jobs_now);
  job.run_priority = job.spec.priority;
  job.run_time = job.virtual_time;
  insert(job);
}

void RunQueue::insert(JobRecord& job) {
  UserRecord& user = *job.session->user;
  if (user.jobs.empty()) users_.emplace(turn_of(user), &user);
  user.jobs.emplace(run_key(job), &job);
  ++ready_;
}

void RunQueue::erase_ready(JobRecord& job) {
  UserRecord& user = *job.session->user;
  user.jobs.erase(run_key(job));
  if (user.jobs.empty()) users_.erase(turn_of(user));
  --ready_;
}

// Of the group in which it waits.
void RunQueue::take_out(JobRecord& job) {
  UserRecord& user = *job.session->user;
  const auto waiters = job.waits_in->users.find(user.number);
  waiters->second.jobs.erase(run_key(job));
  if (waiters->second.jobs.empty()) job.waits_in->users.erase(waiters);
  job.waits_in = nullptr;
  --user.parked;
  --waiting_;
}

void RunQueue::erase(JobRecord& job) {
  if (job.waits_in == nullptr) {
    erase_ready(job);
  } else {
    take_out(job);
  }
}

void RunQueue::pass(const JobRecord& job) {
  UserRecord& user = *job.session->user;
  user.jobs_now = std::max(user.jobs_now, job.run_time);
}

void RunQueue::charge(JobRecord& job, std::uint64_t slots) {
  UserRecord& user = *job.session->user;
  job.virtual_time +=
      time_on_slots(job.mean_duration, slots) * static_cast<double>(job.session->jobs.size());
  now_ = std::max(now_, user.clock);
  auto listed = users_.extract(turn_of(user));
  // Who declares a new job for every few tasks is not served for nothing.
  user.clock += time_on_slots(
      job.mean_duration == Duration(0) ? user.mean_duration : job.mean_duration, slots);
  if (listed.empty()) return;
  listed.key() = turn_of(user);
  users_.insert(std::move(listed));
}

void RunQueue::park(JobRecord& job, WaitGroup& group, const std::vector<std::uint32_t>& classes,
                    std::uint64_t generation) {
  UserRecord& user = *job.session->user;
  erase_ready(job);
  WaitGroup::Waiters& waiters = group.users[user.number];
  waiters.jobs.emplace(run_key(job), &job);
  job.waits_in = &group;
  ++user.parked;
  ++waiting_;
  if (group.generation == generation) return;
  group.generation = generation;
  if (group.number == 0) group.number = ++last_number_;
  for (const std::uint32_t index : classes) listed_[index].groups[key_of(group)] = &group;
}

void RunQueue::unpark(JobRecord& job) {
  if (job.waits_in == nullptr) return;
  take_out(job);
  insert(job);
}

void RunQueue::wake(std::uint32_t class_index, std::uint64_t free_slots) {
  const auto found = listed_.find(class_index);
  if (found == listed_.end()) return;
  Listed& listed = found->second;
  std::size_t looks = kGroups;
  const auto look = [&](auto at, auto end) {
    for (; at != end && looks > 0; --looks) {
      listed.looked = at->first;
      if (at->second->users.empty()) {  // it is listed again when somebody waits
        at->second->generation = 0;
        at = listed.groups.erase(at);
      } else {
        wake_first(*(at++)->second);
      }
    }
  };
  const auto most = static_cast<std::uint32_t>(std::min<std::uint64_t>(free_slots, UINT32_MAX));
  const GroupKey last = std::min(listed.looked, GroupKey{most, UINT64_MAX});
  look(listed.groups.upper_bound(last), listed.groups.upper_bound({most, UINT64_MAX}));
  look(listed.groups.begin(), listed.groups.upper_bound(last));
}

// The first of the group, or the next where they differ, of each user.
void RunQueue::wake_first(WaitGroup& group) {
  if (group.differs) return wake_some(group);
  for (auto user = group.users.begin(); user != group.users.end();) {
    wake_from(group, (user++)->first, kFirst);
  }
}

void RunQueue::set_need(WaitGroup& group, std::uint32_t need) {
  const GroupKey before = key_of(group);
  group.need = need;
  if (group.number == 0) return;
  for (auto& [index, listed] : listed_) {
    if (listed.groups.erase(before) > 0) listed.groups[key_of(group)] = &group;
  }
}

// Those of this user from `from` on, as many as are looked at. None of the others' goes.
void RunQueue::wake_from(WaitGroup& group, std::uint64_t user, RunKey from) {
  WaitGroup::Waiters& waiters = group.users.at(user);
  auto next = waiters.jobs.lower_bound(from);
  for (std::size_t n = 0; n < kJobs && next != waiters.jobs.end(); ++n) {
    JobRecord& job = *next->second;
    waiters.looked = next->first;
    const bool is_last = waiters.jobs.size() == 1;
    ++next;
    unpark(job);
    if (is_last) return;  // and so they are gone
  }
}

void RunQueue::wake_some(WaitGroup& group) {
  for (auto user = group.users.begin(); user != group.users.end();) {
    const auto& [number, waiters] = *user++;
    const auto next = waiters.jobs.upper_bound(waiters.looked);
    wake_from(group, number, next == waiters.jobs.end() ? kFirst : next->first);
  }
}

void RunQueue::wake_all(WaitGroup& group) {
  while (!group.users.empty()) unpark(*group.users.begin()->second.jobs.begin()->second);
}

void RunQueue::remove(const WaitGroup& group) {
  CHECK(group.users.empty());
  if (group.number == 0) return;
  for (auto& [index, listed] : listed_) listed.groups.erase(key_of(group));
}

}  // namespace muster
