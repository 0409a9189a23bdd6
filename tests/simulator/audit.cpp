#include "tests/simulator/audit.hpp"

namespace muster::simulator {

std::string name_of(const Audit::TaskName& task) {
  return "producer " + std::to_string(std::get<0>(task).high) + " job " +
         std::to_string(std::get<1>(task)) + " task " + std::to_string(std::get<2>(task));
}

std::string Audit::begin(const TaskName& task) {
  Fate& fate = fates_[task];
  ++fate.runs;
  fate.finished = false;
  if (ended_.count(std::get<SessionId>(task)) != 0) ++fate.excuses;  // it is not told to stop yet
  if (fate.runs <= 1 + fate.excuses) return "";
  return name_of(task) + " runs for the " + std::to_string(fate.runs) + "th time, and only " +
         std::to_string(fate.excuses) + " losses or retries explain that";
}

void Audit::lose(const TaskName& task) {
  Fate& fate = fates_[task];
  if (!fate.delivered) ++fate.excuses;
}

void Audit::broker_dies() {
  for (auto& [task, fate] : fates_) {
    fate.cancelled = false;
    if (fate.finished && !fate.delivered) ++fate.excuses;
  }
}

void Audit::session_ends(const SessionId& session) {
  ended_.insert(session);
  for (auto fate = fates_.lower_bound({session, 0, 0});
       fate != fates_.end() && std::get<SessionId>(fate->first) == session; ++fate) {
    fate->second.cancelled = false;
    if (fate->second.runs > 0 && !fate->second.delivered) ++fate->second.excuses;
  }
}

std::string Audit::lease(const TaskName& task) const {
  const auto found = fates_.find(task);
  if (found == fates_.end() || !found->second.cancelled) return "";
  return name_of(task) + " is leased although the broker knows that it was cancelled";
}

}  // namespace muster::simulator
