#include "broker/run_queue.hpp"

#include <algorithm>

namespace muster {
namespace {

// Higher priorities first: ~ reverses their order, and unlike - has no value that overflows.
RunKey run_key(const JobRecord& job) { return {~job.run_priority, job.run_time, job.key}; }

// Of so many tasks that take about so long.
double time_on_slots(Duration duration, std::uint64_t slots) {
  return static_cast<double>(std::max(duration, Duration(1000)).count()) *
         static_cast<double>(slots);
}

}  // namespace

bool RunQueue::contains(const JobRecord& job) const {
  const UserRecord* user = job.session->user;
  return user != nullptr && user->jobs.count(run_key(job)) != 0;
}

void RunQueue::join(JobRecord& job) {
  UserRecord& user = *job.session->user;
  if (user.jobs.empty()) user.clock = std::max(user.clock, now_);
  job.virtual_time = std::max(job.virtual_time, user.jobs_now);
  job.run_priority = job.spec.priority;
  job.run_time = job.virtual_time;
  insert(job);
}

void RunQueue::insert(JobRecord& job) {
  UserRecord& user = *job.session->user;
  if (user.jobs.empty()) users_.emplace(turn_of(user), &user);
  user.jobs.emplace(run_key(job), &job);
  ++size_;
}

void RunQueue::erase(JobRecord& job) {
  UserRecord& user = *job.session->user;
  user.jobs.erase(run_key(job));
  if (user.jobs.empty()) users_.erase(turn_of(user));
  --size_;
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

}  // namespace muster
