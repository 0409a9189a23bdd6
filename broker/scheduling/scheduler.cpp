#include "broker/scheduling/scheduler.hpp"

#include <algorithm>
#include <utility>

#include "broker/scheduling/departures.hpp"
#include "broker/scheduling/greetings.hpp"
#include "broker/scheduling/liveness.hpp"
#include "broker/scheduling/producer_messages.hpp"
#include "broker/scheduling/worker_messages.hpp"
#include "common/check.hpp"

namespace muster {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(250);  // or the heartbeat interval, if less

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, Time now)
    : reactor_(std::move(options), now), next_tick_(now + kTick), last_tick_(now) {}

// --- Events -------------------------------------------------------------------------------------

bool Scheduler::ignores(PeerId id, Time now) {
  const auto found = reactor_.peers.find(id);
  if (found == reactor_.peers.end() || found->second.kind != PeerKind::refused) return false;
  found->second.last_heard = now;
  count("messages_ignored");
  return true;
}

void Scheduler::receive(PeerId id, Message&& message, Time now, const RemoteUser* user,
                        const LocalUser& local) {
  if (ignores(id, now)) return;
  const auto found = reactor_.peers.find(id);
  if (found != reactor_.peers.end()) found->second.last_heard = now;
  Refusal refusal;
  if (auto* producer = std::get_if<message::HelloProducer>(&message)) {
    refusal = greet(reactor_, {id, user, local}, std::move(*producer), now);
  } else if (auto* worker = std::get_if<message::HelloWorker>(&message)) {
    refusal = greet(reactor_, {id, user, local}, std::move(*worker), now);
  } else if (found == reactor_.peers.end()) {
    count("messages_before_hello");
    reactor_.peers[id] = {PeerKind::told_unknown, nullptr, kNoWorker, now};
    reactor_.out.send(id, message::Unknown{options().incarnation});
  } else {
    hear(found->second, id, std::move(message), now);
  }
  if (refusal) refuse(id, std::move(*refusal), now);
}

void Scheduler::hear(Peer& peer, PeerId id, Message&& message, Time now) {
  if (peer.kind == PeerKind::told_unknown) {
    count("messages_before_hello");
    return;
  }
  if (peer.kind == PeerKind::silent_session) {
    // A producer that was stopped goes on. It was told nothing for a while, so it has to begin
    // anew.
    count("messages_before_hello");
    if (now - peer.told_unknown < options().heartbeat_interval) return;
    peer.told_unknown = now;
    reactor_.out.send(id, message::Unknown{options().incarnation});
    return;
  }
  SessionRecord* const session = peer.session;
  if (session != nullptr) {
    session->last_heard = now;
    session->output_messages = session->output_bytes = 0;
  } else {
    reactor_.books.worker(peer.worker).last_heard = now;
  }
  if (const auto* beat = std::get_if<message::Heartbeat>(&message)) {
    hear_heartbeat(peer, id, *beat, now);
    return;
  }
  Refusal refusal = session != nullptr ? on_producer(reactor_, *session, std::move(message), now)
                                       : on_worker(reactor_, peer.worker, std::move(message), now);
  if (refusal) refuse(id, std::move(*refusal), now);
}

void Scheduler::hear_heartbeat(const Peer& peer, PeerId id, const message::Heartbeat& beat,
                               Time now) {
  if (peer.session != nullptr) reactor_.stores.set_named(*peer.session);
  if (beat.reply_wanted) {
    reactor_.out.send(id, message::Heartbeat{beat.token, false});
  } else if (peer.worker != kNoWorker) {
    // The token is ours, unless the worker made it up: a difference that cannot overflow.
    const Duration sample(
        static_cast<std::int64_t>(static_cast<std::uint64_t>(now.count()) - beat.token));
    Duration& learned = reactor_.books.worker(peer.worker).round_trip;
    if (sample > Duration(0) && sample < std::chrono::minutes(1)) {
      learned = learned == Duration(0) ? sample : (learned * 3 + sample) / 4;
    }
  }
}

// It is told why, once; what it had ends, and it is ignored from now on.
void Scheduler::refuse(PeerId id, message::Refuse&& refusal, Time now) {
  count("peers_refused");
  const Peer old = std::exchange(reactor_.peers[id], {PeerKind::refused, nullptr, kNoWorker, now});
  if (old.kind == PeerKind::refused) return;
  if (old.session != nullptr) end_session(reactor_, *old.session);
  if (old.worker != kNoWorker) lose_worker(reactor_, old.worker, false);
  reactor_.out.send(id, std::move(refusal));
}

void Scheduler::revoke(const std::string& user) {
  if (user.empty()) return;
  std::vector<WorkerIndex> revoked;
  reactor_.books.workers().each([&](WorkerIndex index, const WorkerRecord& worker) {
    if (worker.user == user) revoked.push_back(index);
  });
  for (const WorkerIndex index : revoked) {
    const WorkerRecord& worker = reactor_.books.worker(index);
    if (worker.present) {
      refuse(worker.peer, {message::RefuseCode::identity, user + " is no longer authorized here"},
             worker.last_heard);
    } else {
      lose_worker(reactor_, index, false);
    }
  }
}

void Scheduler::malformed(PeerId id, message::RefuseCode code, const std::string& reason,
                          Time now) {
  count("messages_malformed");
  const auto found = reactor_.peers.find(id);
  if (found != reactor_.peers.end() && found->second.kind == PeerKind::refused) return;
  refuse(id, {code, "a message breaks the protocol: " + reason}, now);
}

void Scheduler::refuse_bulk(PeerId id, message::RefuseCode code, std::string text, Time now) {
  refuse(id, {code, std::move(text)}, now);
}

void Scheduler::disconnected(PeerId id, Time now) {
  const auto found = reactor_.peers.find(id);
  if (found == reactor_.peers.end()) return;
  const Peer peer = found->second;
  reactor_.peers.erase(found);
  if (peer.session != nullptr) {
    peer.session->present = peer.session->silent = false;
    peer.session->away_since = now;
  }
  if (peer.worker != kNoWorker) {  // it goes on working and most likely comes back
    reactor_.books.worker(peer.worker).present = false;
    reactor_.books.workers().update_level(peer.worker);
  }
}

bool Scheduler::not_reading(PeerId id, Time now) {
  const auto found = reactor_.peers.find(id);
  if (found == reactor_.peers.end() || found->second.kind == PeerKind::silent_session) return false;
  if (found->second.session == nullptr) {
    disconnected(id, now);
  } else {
    set_silent(found->second);
  }
  return true;
}

void Scheduler::tick(Time now) {
  if (now < next_tick_) return;
  const Duration pause = now - last_tick_ - 4 * kTick;
  // The caller stood still without saying so; the broker's loop does say so: Attention.
  if (pause > Duration(0)) forgive_silence(reactor_, pause, now);
  last_tick_ = now;
  next_tick_ = now + std::min<Duration>(kTick, options().heartbeat_interval);
  check_liveness(reactor_, now);
  review_jobs(now);
  placement_.review(now);
}

// Looks at jobs that wait although nothing of theirs runs; tells why, and gives up in the end.
void Scheduler::review_jobs(Time now) {
  explain_.look();
  for (auto& [key, job] : reactor_.books.jobs()) {
    reactor_.blobs.review_results(*job, now);
    Explain::Reason reason;
    if (job->queued > 0 && job->leased == 0 && now >= job->session->hold_until) {
      reason = explain_.why(*job);
    }
    if (reason.text.empty()) {
      job->unplaced_since = kNever;
    } else if (job->unplaced_since == kNever) {
      job->unplaced_since = now;
    }
    if (reason.patience == Duration::max() || now - job->unplaced_since < reason.patience) {
      reactor_.delivery.notice(*job, std::move(reason.text));
      continue;
    }
    count("jobs_given_up");
    reactor_.endings.fail_queued(*job, {reason.kind, std::move(reason.text), "", {}});
    job->unplaced_since = kNever;
  }
}

// --- Output -------------------------------------------------------------------------------------

Time Scheduler::next_deadline() const {
  return std::min(next_tick_, reactor_.acknowledgements.next_deadline());
}

std::vector<Outgoing> Scheduler::take_outgoing(Time now) {
  placement_.dispatch(now);
  reactor_.delivery.flush();
  reactor_.acknowledgements.flush(now);
  reactor_.books.end_turn();
  announce_pool();
  return reactor_.out.take();
}

// Once per turn, however many workers came or went in it.
void Scheduler::announce_pool() {
  const message::Pool& pool = reactor_.books.workers().pool();
  if (reactor_.announced == pool) return;
  reactor_.announced = pool;
  for (const auto& [id, session] : reactor_.books.sessions()) {
    reactor_.out.send(*session, message::Pool(pool));
  }
}

void Scheduler::answer(PeerId peer, message::NodesAnswer&& answer) {
  const auto found = reactor_.peers.find(peer);
  if (found == reactor_.peers.end() || found->second.session == nullptr) return;
  reactor_.out.send(peer, std::move(answer));
}

// --- Views --------------------------------------------------------------------------------------

std::optional<Scheduler::WorkerName> Scheduler::worker_at(PeerId peer) const {
  const auto found = reactor_.peers.find(peer);
  if (found == reactor_.peers.end() || found->second.worker == kNoWorker) return std::nullopt;
  const WorkerRecord& worker = reactor_.books.worker(found->second.worker);
  return WorkerName{worker.hello.worker, worker.user, worker.shares};
}

std::optional<Scheduler::WorkerName> Scheduler::worker_named(const WorkerId& id) const {
  const WorkerIndex index = reactor_.books.workers().find(id);
  if (index == kNoWorker) return std::nullopt;
  const WorkerRecord& worker = reactor_.books.worker(index);
  return WorkerName{id, worker.user, worker.shares};
}

bool Scheduler::knows(PeerId peer) const {
  const auto found = reactor_.peers.find(peer);
  return found != reactor_.peers.end() && found->second.kind != PeerKind::told_unknown;
}

bool Scheduler::expects_outcome(const WorkerId& worker, const SessionId& session, JobId job,
                                TaskSequence sequence, Attempt attempt) const {
  const WorkerIndex index = reactor_.books.workers().find(worker);
  return index != kNoWorker &&
         muster::expects_outcome(reactor_, index, session, job, sequence, attempt);
}

void Scheduler::deliver(const WorkerId& worker, message::WorkerOutcomes&& said, Time now) {
  const WorkerIndex index = reactor_.books.workers().find(worker);
  if (index != kNoWorker) take_outcomes(reactor_, index, std::move(said), now);
}

std::string Scheduler::shown(const SessionId& id) const {
  const auto found = reactor_.books.sessions().find(id);
  return found == reactor_.books.sessions().end() ? "" : muster::shown(*found->second);
}

void Scheduler::set_counter(const std::string& name, std::uint64_t count) {
  auto& counters = reactor_.books.counters();
  if (count != 0 || counters.count(name) != 0) counters[name] = count;
}

std::uint64_t Scheduler::tasks_held() const {
  std::uint64_t total = 0;
  for (const auto& [id, session] : reactor_.books.sessions()) {
    total += session->open_tasks + session->outcomes_held;
  }
  return total;
}

bool Scheduler::waits_for_producer(const SessionId& id, JobId job) const {
  const auto session = reactor_.books.sessions().find(id);
  if (session == reactor_.books.sessions().end()) return true;
  const auto found = session->second->jobs.find(value(job));
  return found != session->second->jobs.end() && !found->second->declared;
}

void Scheduler::check_invariants() const {
  reactor_.books.check_invariants();
  reactor_.blobs.check_invariants();
  const auto peer_of = [&](PeerId id) -> const Peer& {
    const auto found = reactor_.peers.find(id);
    CHECK(found != reactor_.peers.end());
    return found->second;
  };
  reactor_.books.workers().each([&](WorkerIndex index, const WorkerRecord& worker) {
    CHECK(!worker.present || peer_of(worker.peer).worker == index);
  });
  for (const auto& [id, session] : reactor_.books.sessions()) {
    if (!session->present && !session->silent) continue;
    const Peer& peer = peer_of(session->peer);
    CHECK(peer.session == session.get());
    CHECK(peer.kind == (session->silent ? PeerKind::silent_session : PeerKind::session));
  }
}

}  // namespace muster
