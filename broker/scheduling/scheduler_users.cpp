// The users behind sessions: whose a session is, and what one user may have when several share the
// broker.
#include <algorithm>
#include <utility>

#include "broker/scheduling/scheduler.hpp"
#include "common/check.hpp"

namespace muster {

using message::RefuseCode;

// Whether this user may say HELLO for that session; else the peer is refused.
bool Scheduler::admit_session(PeerId peer, const SessionId& id, const LocalUser& local) {
  const auto known = sessions_.find(id);
  const UserRecord* owner = known == sessions_.end() ? nullptr : known->second->user;
  if (owner != nullptr && owner->who.name != local.name) {
    refuse(peer, RefuseCode::identity, "this session is another user's");
    return false;
  }
  if (owner == nullptr && !users_.may_join(local)) {
    refuse(peer, RefuseCode::over_limit,
           local.name + " has " + std::to_string(member_limits::kSessions) +
               " programs at this broker already, as many as one user may have; end some first");
    return false;
  }
  return true;
}

// The session is this user's from now on.
void Scheduler::join_user(SessionRecord& session, const LocalUser& local) {
  if (session.user != nullptr) return;
  UserRecord& user = users_.join(local);
  session.user = &user;
  session.number = ++last_session_;
  user.jobs_held += session.jobs.size();
  grant(session);
}

// Gives the session what it may have now. True when that is more than before.
bool Scheduler::grant(SessionRecord& session) {
  Credit& granted = session.user->granted;
  const Credit before = session.credit;
  session.credit =
      fair_credit(*session.user, before, {options_.credit_tasks, options_.credit_bytes});
  granted.tasks += session.credit.tasks - before.tasks;
  granted.bytes += session.credit.bytes - before.bytes;
  return session.credit != before;
}

// The session has ended, and holds nothing: others of its user may have what it had.
void Scheduler::leave_user(SessionRecord& session) {
  if (session.user == nullptr) return;
  UserRecord& user = *std::exchange(session.user, nullptr);
  user.granted.tasks -= session.credit.tasks;
  user.granted.bytes -= session.credit.bytes;
  const bool has_others = user.sessions > 1;
  const bool is_member = user.who.is_member;
  users_.leave(user);
  if (!has_others || !is_member) return;
  for (auto& [id, other] : sessions_) {
    if (other->user != &user || !grant(*other)) continue;
    if (other->present) {
      send(other->peer, message::Credit{other->credit.tasks, other->credit.bytes});
    }
    for (auto& [job_id, job] : other->jobs) set_runnable(*job);
  }
}

// What one session may keep of blobs.
std::uint64_t Scheduler::blob_credit(const LocalUser& who, std::uint64_t all) {
  return who.is_member ? all / member_limits::kBlobsShare : all;
}

// Why the session's user may keep no further blob of this size; empty: it may.
std::string Scheduler::beyond_user(const SessionRecord& session, std::uint64_t charged) const {
  const UserRecord& user = *session.user;
  if (!user.who.is_member) return "";
  const std::uint64_t most = blob_credit(user.who, options_.credit_blob_bytes);
  if (user.blobs_kept < member_limits::kBlobs &&
      charged <= most - std::min(most, user.blob_bytes)) {
    return "";
  }
  return user.who.name + " keeps " + std::to_string(user.blobs_kept) + " blobs of " +
         std::to_string(user.blob_bytes) + " bytes here already; one user may keep " +
         std::to_string(member_limits::kBlobs) + " of " + std::to_string(most) +
         " bytes, all programs together: release some, or end programs that keep them";
}

void Scheduler::count_kept(SessionRecord& session, const BlobTable::Kept& kept) {
  if (kept.charged_bytes == 0) return;  // a result, or a file of the broker's own user
  ++session.user->blobs_kept;
  session.user->blob_bytes += kept.charged_bytes;
}

void Scheduler::count_released(SessionRecord& session, const BlobTable::Kept& kept) {
  if (kept.charged_bytes == 0) return;
  --session.user->blobs_kept;
  session.user->blob_bytes -= kept.charged_bytes;
}

// How people see a session: its id is its producer's secret.
std::string Scheduler::shown(const SessionRecord& session) {
  std::string text = "s" + std::to_string(session.number);
  if (session.user != nullptr && !session.user->who.name.empty()) {
    text += " (" + session.user->who.name + ")";
  }
  return text;
}

std::string Scheduler::shown(const SessionId& id) const {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? "" : shown(*found->second);
}

void Scheduler::check_users() const {
  struct Sums {
    std::uint64_t sessions = 0, jobs = 0, blobs = 0, blob_bytes = 0, tasks = 0, bytes = 0;
  };
  std::unordered_map<const UserRecord*, Sums> sums;
  for (const auto& [id, session] : sessions_) {
    CHECK(session->user != nullptr || !session->present);
    if (session->user == nullptr) continue;
    Sums& its = sums[session->user];
    ++its.sessions;
    its.jobs += session->jobs.size();
    its.tasks += session->credit.tasks;
    its.bytes += session->credit.bytes;
    session->blobs.each([&](const BlobId&, const BlobTable::Kept& kept) {
      its.blobs += kept.charged_bytes > 0 ? 1 : 0;
      its.blob_bytes += kept.charged_bytes;
    });
  }
  users_.each([&](const UserRecord& user) {
    const Sums& its = sums.at(&user);
    CHECK(user.sessions == its.sessions && user.jobs_held == its.jobs);
    CHECK(user.blobs_kept == its.blobs && user.blob_bytes == its.blob_bytes);
    CHECK(user.granted.tasks == its.tasks && user.granted.bytes == its.bytes);
  });
}

}  // namespace muster
