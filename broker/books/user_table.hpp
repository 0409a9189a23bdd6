// The users behind local connections, as the scheduler knows them, and what one of them may take of
// a broker that several share. Part of the scheduler, pure.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "common/protocol/ids.hpp"
#include "common/time.hpp"

namespace muster {

// Who is behind a local connection. By default the broker's own user.
struct LocalUser {
  std::string name = {};   // for people; empty: the broker's own
  std::uint32_t id = 0;    // the system's number, of a member
  bool is_member = false;  // may submit tasks, within limits, and use no other right of the broker
  bool may_work = true;    // its workers are admitted
};

// What one member may have at once. The broker's own user has the limits of its sessions alone.
namespace member_limits {
// A program is one session; a script that starts one for each file of a folder must learn of it.
inline constexpr std::uint64_t kSessions = 256;
// Twice what one session may have.
inline constexpr std::uint64_t kJobs = 32'768;
// Blobs, and of the bytes that one session may keep the half, so that others find room.
inline constexpr std::uint64_t kBlobs = 524'288;
inline constexpr std::uint64_t kBlobsShare = 2;
// Credit: twice that of a session. Each gets at most half of what the others left, and at least
// this part of a session's: 256 of them come to four times the credit of one.
inline constexpr std::uint64_t kCredits = 2;
inline constexpr std::uint64_t kLeastCreditShare = 128;
}  // namespace member_limits

// What a session may have at the broker without outcome, and of outcomes unacknowledged.
struct Credit {
  std::uint64_t tasks = 0;
  std::uint64_t bytes = 0;
  bool operator==(const Credit&) const = default;
};

struct JobRecord;
// Priority, reversed; virtual time; and what tells jobs apart.
using RunKey = std::tuple<std::int32_t, double, JobKey>;

// A user with sessions.
struct UserRecord {
  LocalUser who;
  std::uint64_t number = 0;
  std::uint64_t sessions = 0;
  std::uint64_t jobs_held = 0;   // of its sessions, not forgotten
  std::uint64_t blobs_kept = 0;  // that its sessions announced …
  std::uint64_t blob_bytes = 0;  // … and what counts of them against their credit
  Credit granted;                // of its sessions, together

  Duration mean_duration{0};  // of its tasks, learned; 0: unknown

  // --- Owned by RunQueue ---
  std::map<RunKey, JobRecord*> jobs;  // that have something to lease and may find room
  std::size_t parked = 0;             // jobs of it that have something to lease and found none
  double clock = 0;                   // service received: time on slots
  double jobs_now = 0;                // where jobs of it begin that were idle
};

class UserTable {
 public:
  // The record of a user of whom a session begins. It stays until leave() of the last one.
  UserRecord& join(const LocalUser& who) {
    UserRecord& user = find_or_add(who);
    ++user.sessions;
    return user;
  }
  void leave(UserRecord& user) {
    if (--user.sessions == 0) users_.erase(std::string(user.who.name));
  }
  // Whether it may begin another session.
  bool may_join(const LocalUser& who) const {
    const auto found = users_.find(who.name);
    return !who.is_member || found == users_.end() ||
           found->second->sessions < member_limits::kSessions;
  }
  template <typename Visit>  // visit(UserRecord)
  void each(Visit&& visit) const {
    for (const auto& [name, user] : users_) visit(*user);
  }

 private:
  UserRecord& find_or_add(const LocalUser& who) {
    auto& record = users_[who.name];
    if (!record) {
      record = std::make_unique<UserRecord>();
      record->who = who;
      record->number = ++last_number_;
    }
    return *record;
  }

  std::map<std::string, std::unique_ptr<UserRecord>> users_;
  std::uint64_t last_number_ = 0;
};

// The credit of a session of this user that has `own` now, and never less than that. `most`: what
// one session may have.
inline Credit fair_credit(const UserRecord& user, const Credit& own, const Credit& most) {
  const auto share = [](std::uint64_t granted, std::uint64_t its, std::uint64_t limit) {
    const std::uint64_t others = granted - its;
    const std::uint64_t all = limit * member_limits::kCredits;
    const std::uint64_t half = all > others ? (all - others) / 2 : 0;
    const std::uint64_t least =
        std::max<std::uint64_t>(limit / member_limits::kLeastCreditShare, 1);
    return std::max(its, std::min(std::max(half, least), limit));
  };
  if (!user.who.is_member) return most;
  return {share(user.granted.tasks, own.tasks, most.tasks),
          share(user.granted.bytes, own.bytes, most.bytes)};
}

}  // namespace muster
