#include "broker/scheduling/liveness.hpp"

#include <algorithm>
#include <vector>

#include "broker/scheduling/departures.hpp"

namespace muster {
namespace {

// Connections that are ignored are forgotten after this silence.
constexpr Duration kForgetPeerAfter = std::chrono::minutes(10);

message::Heartbeat heartbeat(Time now, bool reply_wanted) {
  return {static_cast<std::uint64_t>(now.count()), reply_wanted};
}

void check_workers(Reactor& reactor, Time now) {
  const Duration interval = reactor.books.options().heartbeat_interval;
  const Duration silence = interval * reactor.books.options().heartbeat_misses;
  std::vector<WorkerIndex> lost;
  reactor.books.workers().each([&](WorkerIndex index, WorkerRecord& worker) {
    if (now - worker.last_heard > silence) {
      lost.push_back(index);
    } else if (worker.present && now - worker.last_sent >= interval) {
      worker.last_sent = now;
      reactor.out.send(worker, heartbeat(now, true));
    }
  });
  for (const WorkerIndex index : lost) {
    const WorkerRecord& worker = reactor.books.worker(index);
    if (worker.present) reactor.peers.erase(worker.peer);
    lose_worker(reactor, index, false);
  }
}

// A producer that is stopped keeps its connection: a heartbeat now and then finds out whether it
// does. So few fit into what ZeroMQ keeps for it for days, and then the connection lives as well.
void check_session(Reactor& reactor, SessionRecord& session, Time now) {
  const Duration interval = reactor.books.options().heartbeat_interval;
  const Duration silence = interval * reactor.books.options().heartbeat_misses;
  if (session.present && now - session.last_heard > silence) {
    reactor.books.count("producers_silent");
    set_silent(reactor.peers.at(session.peer));
  }
  if (now - session.last_sent < (session.silent ? silence : interval)) return;
  session.last_sent = now;
  reactor.out.send(session.peer, heartbeat(now, false));
}

void check_sessions(Reactor& reactor, Time now) {
  std::vector<SessionRecord*> gone;
  for (auto& [id, session] : reactor.books.sessions()) {
    const bool is_away = !session->present && !session->silent;
    if (is_away && now - session->away_since > reactor.books.options().session_grace) {
      gone.push_back(session.get());
    } else if (!is_away) {
      check_session(reactor, *session, now);
    }
  }
  for (SessionRecord* session : gone) {
    reactor.books.count("sessions_expired");
    end_session(reactor, *session);
  }
}

// Jobs that only workers speak of. A producer that is here, with credit to spare, would have said
// JOB if it still waited for them: it has what it wanted, from the broker before this one.
void forget_unclaimed(Reactor& reactor, Time now) {
  std::vector<JobRecord*> unclaimed;
  for (auto& [key, job] : reactor.books.jobs()) {
    if (job->declared) continue;
    const SessionRecord& session = *job->session;
    const bool has_credit = session.open_tasks < session.credit.tasks / 2 + 1 &&
                            session.payload_bytes < session.credit.bytes / 2;
    if (!session.present || !has_credit) {
      job->unclaimed_since = now;
    } else if (now - job->unclaimed_since > reactor.books.options().session_grace) {
      unclaimed.push_back(job.get());
    }
  }
  for (JobRecord* job : unclaimed) {
    reactor.books.count("jobs_unclaimed");
    reactor.endings.forget_job(*job);
  }
}

}  // namespace

void set_silent(Peer& peer) {
  peer.kind = PeerKind::silent_session;
  peer.session->present = false;
  peer.session->silent = true;
}

void check_liveness(Reactor& reactor, Time now) {
  check_workers(reactor, now);
  check_sessions(reactor, now);
  if (reactor.reports.expire(now)) reactor.stores.review_early();
  std::erase_if(reactor.peers, [&](const auto& entry) {
    const Peer& peer = entry.second;
    return peer.session == nullptr && peer.worker == kNoWorker &&
           now - peer.last_heard > kForgetPeerAfter;
  });
  forget_unclaimed(reactor, now);
}

void forgive_silence(Reactor& reactor, Duration pause, Time now) {
  const auto later = [&](Time since) { return std::min(since + pause, now); };
  for (auto& [id, session] : reactor.books.sessions()) {
    session->last_heard = later(session->last_heard);
    session->away_since = later(session->away_since);
  }
  reactor.books.workers().each(
      [&](WorkerIndex, WorkerRecord& worker) { worker.last_heard = later(worker.last_heard); });
  reactor.books.reports().postpone(pause);
  for (auto& [key, job] : reactor.books.jobs()) {
    if (job->unplaced_since != kNever) job->unplaced_since = later(job->unplaced_since);
  }
}

}  // namespace muster
