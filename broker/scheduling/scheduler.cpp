// Connections, greeting and liveness. The other parts of Scheduler: scheduler_*.cpp.
#include "broker/scheduling/scheduler.hpp"

#include <algorithm>
#include <utility>

#include "common/check.hpp"

namespace muster {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(250);  // or the heartbeat interval, if less
// Connections that are ignored are forgotten after this silence.
constexpr Duration kForgetPeerAfter = std::chrono::minutes(10);

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, Time now)
    : options_(std::move(options)), started_(now), next_tick_(now + kTick), last_tick_(now) {}

Scheduler::~Scheduler() = default;

bool Scheduler::ignores(PeerId id, Time now) {
  const auto found = peers_.find(id);
  if (found == peers_.end() || found->second.kind != PeerKind::refused) return false;
  found->second.last_heard = now;
  ++counters_["messages_ignored"];
  return true;
}

void Scheduler::receive(PeerId id, Message&& message, Time now, const RemoteUser* user,
                        const LocalUser& local) {
  if (ignores(id, now)) return;
  const auto found = peers_.find(id);
  if (found != peers_.end()) found->second.last_heard = now;
  if (std::holds_alternative<message::HelloProducer>(message) ||
      std::holds_alternative<message::HelloWorker>(message)) {
    greet(id, std::move(message), now, user, local);
    return;
  }
  if (found == peers_.end() || found->second.kind == PeerKind::told_unknown) {
    ++counters_["messages_before_hello"];
    if (found == peers_.end()) {
      peers_[id] = {PeerKind::told_unknown, nullptr, kNoWorker, now};
      send(id, message::Unknown{options_.incarnation});
    }
    return;
  }
  if (found->second.kind == PeerKind::silent_session) {
    hear_silent(found->second, id, now);
    return;
  }
  dispatch_message(found->second, id, std::move(message), now);
}

// A producer that was stopped goes on. It was told nothing for a while, so it has to begin anew.
void Scheduler::hear_silent(Peer& peer, PeerId id, Time now) {
  ++counters_["messages_before_hello"];
  if (now - peer.told_unknown < options_.heartbeat_interval) return;
  peer.told_unknown = now;
  send(id, message::Unknown{options_.incarnation});
}

void Scheduler::dispatch_message(Peer& peer, PeerId id, Message&& message, Time now) {
  Time& last_heard =
      peer.session != nullptr ? peer.session->last_heard : workers_.at(peer.worker).last_heard;
  last_heard = now;
  if (peer.session != nullptr) peer.session->output_messages = peer.session->output_bytes = 0;
  if (const auto* beat = std::get_if<message::Heartbeat>(&message)) {
    if (peer.session != nullptr) set_stores_named(*peer.session);
    if (beat->reply_wanted) {
      send(id, message::Heartbeat{beat->token, false});
    } else if (peer.worker != kNoWorker) {
      // The token is ours, unless the worker made it up: a difference that cannot overflow.
      const Duration sample(
          static_cast<std::int64_t>(static_cast<std::uint64_t>(now.count()) - beat->token));
      Duration& learned = workers_.at(peer.worker).round_trip;
      if (sample > Duration(0) && sample < std::chrono::minutes(1)) {
        learned = learned == Duration(0) ? sample : (learned * 3 + sample) / 4;
      }
    }
    return;
  }
  if (peer.session != nullptr) {
    on_producer(*peer.session, std::move(message), now);
  } else {
    on_worker(peer.worker, std::move(message), now);
  }
}

void Scheduler::greet(PeerId id, Message&& message, Time now, const RemoteUser* user,
                      const LocalUser& local) {
  const auto found = peers_.find(id);
  const bool is_worker = std::holds_alternative<message::HelloWorker>(message);
  if (found != peers_.end() && found->second.kind != PeerKind::told_unknown &&
      (found->second.kind == PeerKind::worker) != is_worker) {
    refuse(id, message::RefuseCode::identity, "one connection cannot be producer and worker");
    return;
  }
  if (user != nullptr && !user->is_admitted) {
    refuse(id, message::RefuseCode::identity, user->name + " is no longer authorized here");
    return;
  }
  if (user != nullptr && !is_worker) {
    refuse(id, message::RefuseCode::identity,
           "only workers may come through this endpoint; programs connect to the broker's local "
           "one (ipc://) on its machine");
    return;
  }
  if (user == nullptr && is_worker && !local.may_work) {
    refuse(id, message::RefuseCode::identity,
           local.name +
               " may submit tasks here, and bring no workers, because these see and answer "
               "what others submit: whoever runs the broker can allow it (muster-broker "
               "--worker-users)");
    return;
  }
  if (is_worker) {
    hello(id, std::get<message::HelloWorker>(std::move(message)), now, user, local);
  } else {
    hello(id, std::get<message::HelloProducer>(std::move(message)), now, local);
  }
}

bool Scheduler::check_version(PeerId peer, std::uint32_t protocol, const std::string& software) {
  if (protocol == limits::kProtocolVersion) return true;
  refuse(peer, message::RefuseCode::version,
         "protocol version " + std::to_string(protocol) + " (software " + software +
             ") does not fit this broker's version " + std::to_string(limits::kProtocolVersion) +
             " (software " + options_.software_version + "): install muster " +
             options_.software_version + " there, or the other version here");
  return false;
}

void Scheduler::welcome(PeerId peer, const SessionRecord* session, Time now,
                        const RemoteUser* user) {
  message::Welcome answer;
  answer.software_version = options_.software_version;
  answer.incarnation = options_.incarnation;
  answer.heartbeat_interval = options_.heartbeat_interval;
  answer.heartbeat_misses = options_.heartbeat_misses;
  answer.pack = session != nullptr ? options_.pack : user != nullptr;
  if (user != nullptr) answer.proof = user->proof;
  answer.blob_folders = options_.blob_folders;
  answer.blob_token = options_.blob_token;
  if (session != nullptr) {
    answer.credit_tasks = session->credit.tasks;
    answer.credit_bytes = session->credit.bytes;
    if (!options_.blob_folders.empty()) {
      const LocalUser& who = session->user->who;
      answer.credit_blob_bytes = blob_credit(who, options_.credit_blob_bytes);
      answer.credit_memory_bytes = blob_credit(who, options_.credit_memory_bytes);
    }
    for (const auto& [id, job] : session->jobs) {
      if (job->declared) answer.jobs.push_back({job->id, TaskSequence{job->end()}});
    }
    send(peer, std::move(answer));
    return;
  }
  send(peer, std::move(answer));
  send(peer, message::Heartbeat{static_cast<std::uint64_t>(now.count()), true});
}

void Scheduler::refuse(PeerId peer, message::RefuseCode code, std::string text) {
  ++counters_["peers_refused"];
  const auto found = peers_.find(peer);
  if (found != peers_.end()) {
    Peer old = found->second;
    if (old.kind == PeerKind::refused) return;
    found->second = {PeerKind::refused, nullptr, kNoWorker, old.last_heard};
    if (old.session != nullptr) end_session(*old.session);
    if (old.worker != kNoWorker) lose_worker(old.worker, false);
  }
  peers_[peer].kind = PeerKind::refused;
  send(peer, message::Refuse{code, std::move(text)});
}

void Scheduler::revoke(const std::string& user) {
  if (user.empty()) return;
  std::vector<WorkerIndex> revoked;
  workers_.each([&](WorkerIndex index, const WorkerRecord& worker) {
    if (worker.user == user) revoked.push_back(index);
  });
  for (const WorkerIndex index : revoked) {
    if (workers_.at(index).present) {
      refuse(workers_.at(index).peer, message::RefuseCode::identity,
             user + " is no longer authorized here");
    } else {
      lose_worker(index, false);
    }
  }
}

void Scheduler::malformed(PeerId id, message::RefuseCode code, const std::string& reason,
                          Time now) {
  ++counters_["messages_malformed"];
  const auto found = peers_.find(id);
  if (found != peers_.end() && found->second.kind == PeerKind::refused) return;
  peers_[id].last_heard = now;
  refuse(id, code, "a message breaks the protocol: " + reason);
}

void Scheduler::disconnected(PeerId id, Time now) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return;
  const Peer peer = found->second;
  peers_.erase(found);
  if (peer.session != nullptr) {
    peer.session->present = peer.session->silent = false;
    peer.session->away_since = now;
  }
  if (peer.worker != kNoWorker) {  // it goes on working and most likely comes back
    workers_.at(peer.worker).present = false;
    workers_.update_level(peer.worker);
  }
}

bool Scheduler::not_reading(PeerId id, Time now) {
  const auto found = peers_.find(id);
  if (found == peers_.end() || found->second.kind == PeerKind::silent_session) return false;
  if (found->second.session == nullptr) {
    disconnected(id, now);
    return true;
  }
  found->second.kind = PeerKind::silent_session;
  SessionRecord& session = *found->second.session;
  session.present = false;
  session.silent = true;
  return true;
}

void Scheduler::send_worker(WorkerIndex index, Message&& message) {
  const WorkerRecord& worker = workers_.at(index);
  if (worker.present) send(worker.peer, std::move(message));
}

void Scheduler::tick(Time now) {
  if (now < next_tick_) return;
  own_up_to_standstill(now);
  last_tick_ = now;
  next_tick_ = now + std::min<Duration>(kTick, options_.heartbeat_interval);
  check_liveness(now);
  forget_unclaimed(now);
  review_drained(now);
  explain_waiting(now);
  review_waiting(now);
}

// Whoever calls stood still without saying so (the broker's loop does say so: Attention): nobody
// else is to blame for that.
void Scheduler::own_up_to_standstill(Time now) {
  const Duration pause = now - last_tick_ - 4 * kTick;
  if (pause <= Duration(0)) return;
  const auto later = [&](Time since) { return std::min(since + pause, now); };
  for (auto& [id, session] : sessions_) {
    session->last_heard = later(session->last_heard);
    session->away_since = later(session->away_since);
  }
  workers_.each(
      [&](WorkerIndex, WorkerRecord& worker) { worker.last_heard = later(worker.last_heard); });
  reports_.postpone(pause);
  for (auto& [key, job] : jobs_) {
    if (job->unplaced_since != kNever) job->unplaced_since = later(job->unplaced_since);
  }
}

void Scheduler::check_liveness(Time now) {
  const Duration interval = options_.heartbeat_interval;
  const Duration silence = interval * options_.heartbeat_misses;
  std::vector<WorkerIndex> lost;
  workers_.each([&](WorkerIndex index, WorkerRecord& worker) {
    if (now - worker.last_heard > silence) {
      lost.push_back(index);
    } else if (worker.present && now - worker.last_sent >= interval) {
      worker.last_sent = now;
      send(worker.peer, message::Heartbeat{static_cast<std::uint64_t>(now.count()), true});
    }
  });
  std::vector<SessionRecord*> gone;
  for (auto& [id, session] : sessions_) {
    const bool is_away = !session->present && !session->silent;
    if (is_away && now - session->away_since > options_.session_grace) {
      gone.push_back(session.get());
    } else if (!is_away) {
      check_session(*session, now);
    }
  }
  for (const WorkerIndex index : lost) {
    if (workers_.at(index).present) peers_.erase(workers_.at(index).peer);
    lose_worker(index, false);
  }
  for (SessionRecord* session : gone) {
    ++counters_["sessions_expired"];
    end_session(*session);
  }
  expire_reports(now);
  std::erase_if(peers_, [&](const auto& entry) {
    const Peer& peer = entry.second;
    return peer.session == nullptr && peer.worker == kNoWorker &&
           now - peer.last_heard > kForgetPeerAfter;
  });
}

// A producer that is stopped keeps its connection: a heartbeat now and then finds out whether it
// does. So few fit into what ZeroMQ keeps for it for days, and then the connection lives as well.
void Scheduler::check_session(SessionRecord& session, Time now) {
  const Duration silence = options_.heartbeat_interval * options_.heartbeat_misses;
  if (session.present && now - session.last_heard > silence) {
    ++counters_["producers_silent"];
    not_reading(session.peer, now);
  }
  if (now - session.last_sent < (session.silent ? silence : options_.heartbeat_interval)) return;
  session.last_sent = now;
  send(session.peer, message::Heartbeat{static_cast<std::uint64_t>(now.count()), false});
}

// Jobs that only workers speak of. A producer that is here, with credit to spare, would have said
// JOB if it still waited for them: it has what it wanted, from the broker before this one.
void Scheduler::forget_unclaimed(Time now) {
  std::vector<JobRecord*> unclaimed;
  for (auto& [key, job] : jobs_) {
    if (job->declared) continue;
    const SessionRecord& session = *job->session;
    const bool has_credit = session.open_tasks < session.credit.tasks / 2 + 1 &&
                            session.payload_bytes < session.credit.bytes / 2;
    if (!session.present || !has_credit) {
      job->unclaimed_since = now;
    } else if (now - job->unclaimed_since > options_.session_grace) {
      unclaimed.push_back(job.get());
    }
  }
  for (JobRecord* job : unclaimed) {
    ++counters_["jobs_unclaimed"];
    forget_job(*job);
  }
}

// Once per turn, however many workers came or went in it.
void Scheduler::announce_pool() {
  if (announced_ == workers_.pool()) return;
  announced_ = workers_.pool();
  for (const auto& [id, session] : sessions_) {
    if (session->present) send(session->peer, message::Pool(announced_));
  }
}

Time Scheduler::next_deadline() const {
  if (unacknowledged_.empty()) return next_tick_;
  const WorkerRecord& oldest = workers_.at(unacknowledged_.front());
  return std::min(next_tick_, oldest.acknowledgements_since + options_.acknowledgement_window);
}

std::vector<Outgoing> Scheduler::take_outgoing(Time now) {
  dispatch(now);
  flush_outcomes();
  flush_acknowledgements(now);
  announce_pool();
  return std::exchange(outgoing_, {});
}

}  // namespace muster
