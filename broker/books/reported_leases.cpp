#include "broker/books/reported_leases.hpp"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "common/check.hpp"

namespace muster {
namespace {

using Entry = ReportedLeases::Entry;

std::uint64_t count_of(const std::vector<Entry>& entries) {
  std::uint64_t count = 0;
  for (const Entry& entry : entries) count += entry.leases.count;
  return count;
}

auto order_of(const Entry& entry) {
  return std::tuple(entry.session, entry.job, entry.leases.first);
}

bool in_front_of(const Entry& left, const Entry& right) { return order_of(left) < order_of(right); }

bool covers(const LeaseRange& range, TaskSequence sequence, Attempt attempt) {
  return range.attempt == attempt && value(sequence) - value(range.first) < range.count;
}

}  // namespace

std::vector<LeaseRange> in_order(std::vector<LeaseRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const LeaseRange& left, const LeaseRange& right) {
    return left.first < right.first;
  });
  std::uint64_t end = 0;
  std::erase_if(ranges, [&](const LeaseRange& range) {
    if (value(range.first) < end) return true;
    end = value(range.first) + range.count;
    return false;
  });
  return ranges;
}

bool covers(const std::vector<LeaseRange>& ranges, TaskSequence sequence) {
  const auto behind = std::upper_bound(
      ranges.begin(), ranges.end(), sequence,
      [](TaskSequence wanted, const LeaseRange& range) { return wanted < range.first; });
  return behind != ranges.begin() &&
         value(sequence) - value(std::prev(behind)->first) < std::prev(behind)->count;
}

void ReportedLeases::replace(WorkerIndex worker, std::vector<Entry>&& entries, Time until) {
  if (entries.empty()) {
    drop(worker);
    return;
  }
  std::sort(entries.begin(), entries.end(), in_front_of);
  const std::uint64_t count = count_of(entries);
  reports_[worker] = {std::move(entries), count, until};
}

std::uint64_t ReportedLeases::count(WorkerIndex worker) const {
  const auto found = reports_.find(worker);
  return found == reports_.end() ? 0 : found->second.count;
}

ReportedLeases::Entries ReportedLeases::of_session(const Report& report, const SessionId& session) {
  const auto first =
      std::lower_bound(report.entries.begin(), report.entries.end(), session,
                       [](const Entry& entry, const SessionId& id) { return entry.session < id; });
  const auto last =
      std::upper_bound(first, report.entries.end(), session,
                       [](const SessionId& id, const Entry& entry) { return id < entry.session; });
  return {first, last};
}

ReportedLeases::Entries ReportedLeases::of_job(const Report& report, const SessionId& session,
                                               JobId job) {
  const auto [begin, end] = of_session(report, session);
  const auto first = std::lower_bound(begin, end, job,
                                      [](const Entry& entry, JobId id) { return entry.job < id; });
  const auto last = std::upper_bound(first, end, job,
                                     [](JobId id, const Entry& entry) { return id < entry.job; });
  return {first, last};
}

bool ReportedLeases::holds(WorkerIndex worker, const SessionId& session, JobId job,
                           TaskSequence sequence, Attempt attempt) const {
  const auto found = reports_.find(worker);
  if (found == reports_.end()) return false;
  const auto [first, last] = of_job(found->second, session, job);
  const auto behind = std::upper_bound(
      first, last, sequence,
      [](TaskSequence wanted, const Entry& entry) { return wanted < entry.leases.first; });
  return behind != first && covers(std::prev(behind)->leases, sequence, attempt);
}

bool ReportedLeases::holds_any(WorkerIndex worker, const SessionId& session, JobId job) const {
  const auto found = reports_.find(worker);
  if (found == reports_.end()) return false;
  const auto [first, last] = of_job(found->second, session, job);
  return first != last;
}

std::vector<std::pair<WorkerIndex, Entry>> ReportedLeases::take(const SessionId& session) {
  std::vector<std::pair<WorkerIndex, Entry>> taken;
  for (auto at = reports_.begin(); at != reports_.end();) {
    Report& report = at->second;
    const auto [first, last] = of_session(report, session);
    for (auto entry = first; entry != last; ++entry) {
      taken.emplace_back(at->first, *entry);
      report.count -= entry->leases.count;
    }
    report.entries.erase(first, last);
    at = report.entries.empty() ? reports_.erase(at) : std::next(at);
  }
  return taken;
}

std::uint64_t ReportedLeases::take_back(WorkerIndex worker, const SessionId& session, JobId job,
                                        const std::vector<LeaseRange>& leases) {
  const auto found = reports_.find(worker);
  if (found == reports_.end()) return 0;
  Report& report = found->second;
  const std::uint64_t before = report.count;
  const auto [first, last] = of_job(report, session, job);
  const std::vector<LeaseRange> back = in_order(leases);
  std::vector<Entry> left;  // what it holds of the job after that
  auto next = back.begin();
  for (auto entry = first; entry != last; ++entry) {
    std::uint64_t from = value(entry->leases.first);
    const std::uint64_t end = from + entry->leases.count;
    while (next != back.end() && value(next->first) + next->count <= from) ++next;
    for (auto range = next; range != back.end() && value(range->first) < end; ++range) {
      if (range->attempt != entry->leases.attempt || value(range->first) + range->count <= from) {
        continue;
      }
      if (value(range->first) > from) {
        left.push_back({session,
                        job,
                        {TaskSequence{from}, value(range->first) - from, entry->leases.attempt}});
      }
      from = std::min(end, value(range->first) + range->count);
    }
    if (from < end) {
      left.push_back({session, job, {TaskSequence{from}, end - from, entry->leases.attempt}});
    }
  }
  std::sort(left.begin(), left.end(), in_front_of);  // ranges that overlap are cut out of order
  const auto place = report.entries.erase(first, last);
  report.entries.insert(place, left.begin(), left.end());
  report.count = count_of(report.entries);
  const std::uint64_t count = before - report.count;
  if (report.entries.empty()) reports_.erase(found);
  return count;
}

std::vector<std::pair<WorkerIndex, Entry>> ReportedLeases::expire(Time now) {
  std::vector<std::pair<WorkerIndex, Entry>> expired;
  for (auto at = reports_.begin(); at != reports_.end();) {
    if (at->second.until > now) {
      ++at;
      continue;
    }
    for (const Entry& entry : at->second.entries) expired.emplace_back(at->first, entry);
    at = reports_.erase(at);
  }
  return expired;
}

void ReportedLeases::postpone(Duration pause) {
  for (auto& [worker, report] : reports_) report.until += pause;
}

void ReportedLeases::check_invariants() const {
  for (const auto& [worker, report] : reports_) {
    CHECK(!report.entries.empty());
    CHECK(report.count == count_of(report.entries));
    CHECK(std::is_sorted(report.entries.begin(), report.entries.end(), in_front_of));
  }
}

}  // namespace muster
